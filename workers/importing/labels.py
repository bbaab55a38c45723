"""Codes for what foreign networks call their classes.

Names that the field shares have SNOMED CT codes here; for others a private code is made from the
name, which SR and SEG may carry (PS3.16 section 8: schemes that begin with 99), until the site
gives a better one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

PRIVATE_SCHEME = "99OVERREAD"
_BACKGROUND = frozenset({"background", "bg", "nothing", "no finding", "none"})

# By name in small letters: SNOMED CT code, meaning, and whether it is a lesion or an organ.
_KNOWN: Mapping[str, tuple[str, str, str]] = {
    "white matter": ("68523003", "White matter", "organ"),
    "gray matter": ("25991003", "Gray matter", "organ"),
    "grey matter": ("25991003", "Gray matter", "organ"),
    "brain": ("12738006", "Brain", "organ"),
    "liver": ("10200004", "Liver", "organ"),
    "spleen": ("78961009", "Spleen", "organ"),
    "pancreas": ("15776009", "Pancreas", "organ"),
    "kidney": ("64033007", "Kidney", "organ"),
    "kidney right": ("9846003", "Right kidney", "organ"),
    "kidney left": ("18639004", "Left kidney", "organ"),
    "lung": ("39607008", "Lung", "organ"),
    "lung right": ("3341006", "Right lung", "organ"),
    "lung left": ("44029006", "Left lung", "organ"),
    "heart": ("80891009", "Heart", "organ"),
    "aorta": ("15825003", "Aorta", "organ"),
    "stomach": ("69695003", "Stomach", "organ"),
    "gallbladder": ("28231008", "Gallbladder", "organ"),
    "esophagus": ("32849002", "Esophagus", "organ"),
    "trachea": ("44567001", "Trachea", "organ"),
    "urinary bladder": ("89837001", "Urinary bladder", "organ"),
    "prostate": ("41216001", "Prostate", "organ"),
    "nodule": ("27925004", "Nodule", "lesion"),
    "lesion": ("52988006", "Lesion", "lesion"),
    "tumor": ("108369006", "Neoplasm", "lesion"),
    "tumour": ("108369006", "Neoplasm", "lesion"),
    "cancer": ("108369006", "Neoplasm", "lesion"),
    "mass": ("4147007", "Mass", "lesion"),
    "cyst": ("12494005", "Cyst", "lesion"),
    "hemorrhage": ("50960005", "Hemorrhage", "lesion"),
    "atelectasis": ("46621007", "Atelectasis", "finding"),
    "consolidation": ("95436008", "Lung consolidation", "finding"),
    "pneumothorax": ("36118008", "Pneumothorax", "finding"),
    "edema": ("19242006", "Pulmonary edema", "finding"),
    "emphysema": ("87433001", "Pulmonary emphysema", "finding"),
    "fibrosis": ("51615001", "Fibrosis of lung", "finding"),
    "effusion": ("60046008", "Pleural effusion", "finding"),
    "pneumonia": ("233604007", "Pneumonia", "finding"),
    "pleural thickening": ("25175003", "Pleural thickening", "finding"),
    "cardiomegaly": ("8186001", "Cardiomegaly", "finding"),
    "hernia": ("39839004", "Diaphragmatic hernia", "finding"),
    "fracture": ("125605004", "Fracture", "finding"),
    "lung opacity": ("128309005", "Opacity", "finding"),
}


def class_section(name: str, kind: str) -> dict[str, Any]:
    """Return a class of the manifest for what a network calls one of its outputs.

    `kind` is the package's: images have findings; in volumes what is no organ is a lesion.
    """
    words = " ".join(re.findall(r"[A-Za-z0-9]+", name)).lower()
    own = re.sub(r"[^a-z0-9]+", "_", words).strip("_") or "unnamed"
    own = own if own[0].isalpha() else f"class_{own}"
    if words in _BACKGROUND or words.startswith("unused"):
        return {"name": own[:60], "kind": "background"}
    value, meaning, what = _known(words) or (private_code(name), name.strip()[:64], "")
    scheme = PRIVATE_SCHEME if not what else "SCT"
    place = (
        "finding" if kind == "classification" else (what or "lesion").replace("finding", "lesion")
    )
    section: dict[str, Any] = {
        "name": own[:60],
        "kind": place,
        "label": {"value": value, "scheme": scheme, "meaning": meaning},
    }
    return section | ({"report": True} if place == "organ" else {})


def private_code(name: str) -> str:
    """Return a code value of at most 16 characters from a name.

    >>> private_code("Enlarged cardiomediastinum")
    'ENLARGED_CARDIOM'
    """
    return re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")[:16] or "UNNAMED"


def class_sections(names: Sequence[str], kind: str) -> list[dict[str, Any]]:
    """Return a section for each name; a name met again gets a number."""
    sections, met = [], set[str]()
    for number, name in enumerate(names, start=1):
        section = class_section(name, kind)
        if section["name"] in met:
            section["name"] = f"{section['name'][:56]}_{number}"
        met.add(section["name"])
        sections.append(section)
    return sections


def _known(words: str) -> tuple[str, str, str] | None:
    found = _KNOWN.get(words)
    if found is None:
        # "Infiltration / effusion", "liver tumour": the last known word decides what it is.
        parts = [word for word in words.split() if word in _KNOWN]
        found = _KNOWN[parts[-1]] if len(words.split()) > 1 and parts else None
        if found and found[2] == "organ":
            return None
    return found
