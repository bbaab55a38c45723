"""QIDO-RS: a query string becomes a search, its matches become DICOM JSON.

References
----------
DICOM PS3.18 section 8.3.4 (query parameters), 10.6 (search transaction); PS3.4 section C.2.2.2
(matching).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from service.core.errors import InvalidRequest
from service.core.identifiers import is_uid
from service.dicomweb.dicom_json import DataSetJson, element
from service.records.dicomweb import (
    KEYS,
    Between,
    Criterion,
    Entry,
    Level,
    Like,
    OneOf,
    Search,
    SeriesEntry,
    StoredInstance,
    StudyEntry,
)

# The most that one answer holds; a client that wants more pages on.
LIMITS: Final = MappingProxyType({Level.STUDY: 1000, Level.SERIES: 5000, Level.INSTANCE: 10_000})
_OFFSET_LIMIT: Final = 10_000_000
_VALUE_LIMIT: Final = 4096
_PARAMETERS_LIMIT: Final = 100
_SHOWN: Final = re.compile(r"[A-Za-z0-9]{1,64}")
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}")
_DATE: Final = re.compile(r"\d{8}")
_TIME: Final = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")
_WORDS: Final = re.compile(r"[\s^=,*?]+")
_LISTED: Final = re.compile(r"[,\\]")


@dataclass(frozen=True)
class Query:
    """A search, and what its answer is to hold beyond the usual attributes."""

    search: Search
    include: frozenset[str] = frozenset()  # tags, 8 hexadecimal digits
    include_all: bool = False
    warnings: Sequence[str] = ()


@dataclass
class _Asked:
    """The parameters of a query, sorted by what they are."""

    fuzzy: bool = False
    limit: int | None = None
    offset: int = 0
    include_all: bool = False
    include: set[str] = field(default_factory=set)
    keys: list[tuple[str, str]] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)


def parse(level: Level, parameters: Iterable[tuple[str, str]], path: Mapping[str, str]) -> Query:
    """Return the query that a URL asks; `path` holds the UIDs of the path by keyword.

    Attributes may be named by keyword or tag. Those that exist and cannot be matched here are
    named in a warning, as the standard wants; those that do not exist are refused.

    Raises
    ------
    InvalidRequest
        ``INVALID_QUERY`` when a name, number, date or UID is none; the message names it.
    """
    asked = _asked(level, parameters)
    keys: list[tuple[str, Criterion]] = [(name, OneOf((uid,))) for name, uid in path.items()]
    for name, value in asked.keys:
        keys += [(name, criterion) for criterion in _criteria(name, value, fuzzy=asked.fuzzy)]
    most = LIMITS[level]
    limit = most if asked.limit is None else min(asked.limit, most)
    warnings = [f"{name} is not matched here" for name in asked.unmatched]
    return Query(
        search=Search(level, tuple(keys), limit, asked.offset),
        include=frozenset(asked.include),
        include_all=asked.include_all,
        warnings=warnings,
    )


def _asked(level: Level, parameters: Iterable[tuple[str, str]]) -> _Asked:
    asked = _Asked()
    for count, (name, value) in enumerate(parameters):
        if count >= _PARAMETERS_LIMIT or len(value) > _VALUE_LIMIT:
            raise _invalid("the query is too long")
        if name == "limit":
            asked.limit = _number("limit", value)
        elif name == "offset":
            asked.offset = _number("offset", value)
        elif name == "fuzzymatching":
            asked.fuzzy = _flag(value)
        elif name == "includefield":
            _include(asked, value)
        elif name not in {"emptyvaluematching", "multiplevaluematching"}:
            _key(asked, level, name, value)
    return asked


def _include(asked: _Asked, value: str) -> None:
    for name in value.split(","):
        if name == "all":
            asked.include_all = True
        elif name:
            asked.include.add(f"{tag_of(name.rpartition('.')[0] or name):08X}")


def _key(asked: _Asked, level: Level, name: str, value: str) -> None:
    keyword = keyword_for_tag(tag_of(name.partition(".")[0]))
    if "." in name or keyword not in KEYS[level]:
        asked.unmatched.append(name)
    elif value not in {"", "*"}:  # universal matching
        asked.keys.append((keyword, value))


def tag_of(name: str) -> int:
    """Return the tag that a query names by keyword or by eight hexadecimal digits.

    Raises
    ------
    InvalidRequest
        ``INVALID_QUERY`` when there is no such attribute.
    """
    tag = int(name, 16) if _TAG.fullmatch(name) else tag_for_keyword(name)
    if tag is None:
        shown = name if _SHOWN.fullmatch(name) else "a parameter"
        raise _invalid(f"{shown}: neither a DICOM keyword, a tag, nor one of this service")
    return tag


def _criteria(name: str, value: str, *, fuzzy: bool) -> list[Criterion]:
    vr = dictionary_VR(name)
    if vr == "UI":
        return [OneOf(_uids(name, value))]
    if vr == "IS":
        return [OneOf((_signed(name, value),))]
    if vr in {"DA", "TM"}:
        return [_range(name, value, _DATE if vr == "DA" else _TIME)]
    if vr == "PN":
        return _fuzzy_name(value) if fuzzy else [Like(_name_patterns(value))]
    return [_listed_or_like(value)]


def _listed_or_like(value: str) -> Criterion:
    if "*" in value or "?" in value:
        return Like((value,))
    return OneOf((value, *(part for part in value.split("\\") if part != value)))


def _uids(name: str, value: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in _LISTED.split(value))
    if not all(is_uid(uid) for uid in found):
        raise _invalid(f"{name}: takes UIDs, with a comma between")
    return found


def _range(name: str, value: str, form: re.Pattern[str]) -> Criterion:
    low, dash, high = value.partition("-")
    if not dash:
        high = low
    ends = [end for end in (low, high) if end]
    if not ends or not all(form.fullmatch(end) for end in ends):
        example = "20261120, 20261101-20261130" if form is _DATE else "101500, 08-12"
        raise _invalid(f"{name}: takes a value or a range such as {example}")
    return Between(low, high)


def _name_patterns(value: str) -> tuple[str, ...]:
    """Return patterns for any group of a name, ignoring what padding and case may differ in."""
    bare = value.rstrip("^ ")
    return bare, f"{bare}^", f"{bare}=*", f"*={bare}", f"*={bare}=*"


def _fuzzy_name(value: str) -> list[Criterion]:
    """Return that each word of the value begins a word of the name (PS3.18 8.3.4.2)."""
    words = [word for word in _WORDS.split(value) if word]
    return [Like((f"{word}*", f"*^{word}*", f"* {word}*", f"*={word}*")) for word in words]


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and int(value[:9]) <= _OFFSET_LIMIT):
        raise _invalid(f"{name}: takes a whole number from 0 to {_OFFSET_LIMIT}")
    return min(int(value[:9]), _OFFSET_LIMIT)


def _signed(name: str, value: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", value):
        raise _invalid(f"{name}: takes a whole number")
    return int(value)


def _flag(value: str) -> bool:
    if value not in {"true", "false"}:
        raise _invalid("fuzzymatching: takes true or false")
    return value == "true"


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest("INVALID_QUERY", message)


def as_json(
    entry: Entry, query: Query, *, service: str, header: Callable[[Entry], DataSetJson] | None
) -> DataSetJson:
    """Return a match; `header` gives the whole data set of an instance of it, where wanted."""
    found = _study_json(entry.study, service)
    address = f"{service}/studies/{entry.study.study_instance_uid}"
    if entry.series is not None:
        found |= _series_json(entry.series)
        address += f"/series/{entry.series.series_instance_uid}"
    if entry.instance is not None:
        found |= _instance_json(entry.instance)
        address += f"/instances/{entry.instance.header.sop_instance_uid}"
    found["00081190"] = element("UR", address)
    if header is not None:
        found = _included(header(entry), query) | found
    return dict(sorted(found.items()))


def needs_header(query: Query) -> bool:
    """Return whether a query wants attributes that the rows do not have."""
    everything = query.include_all and query.search.level is Level.INSTANCE
    return everything or bool(query.include - _ROW_TAGS)


def _included(header: DataSetJson, query: Query) -> DataSetJson:
    if query.include_all:
        return {tag: value for tag, value in header.items() if "BulkDataURI" not in value}
    return {tag: value for tag, value in header.items() if tag in query.include}


def _study_json(study: StudyEntry, service: str) -> DataSetJson:
    return {
        "00080005": element("CS", "ISO_IR 192"),
        "00080020": element("DA", study.study_date),
        "00080030": element("TM", study.study_time),
        "00080050": element("SH", study.accession_number),
        "00080056": element("CS", "ONLINE"),
        "00080061": element("CS", *study.modalities),
        "00080090": element("PN", study.referring_physician_name),
        "00081030": element("LO", study.study_description),
        "00100010": element("PN", study.patient_name),
        "00100020": element("LO", study.patient_id),
        "00100021": element("LO", study.issuer_of_patient_id),
        "00100030": element("DA", study.patient_birth_date),
        "00100040": element("CS", study.patient_sex),
        "0020000D": element("UI", study.study_instance_uid),
        "00200010": element("SH", study.study_id),
        "00201206": element("IS", study.series_count),
        "00201208": element("IS", study.instances_count),
    }


_ROW_TAGS: Final = frozenset(
    "00080005 00080020 00080030 00080050 00080056 00080061 00080090 00081030 00081190 00100010"
    " 00100020 00100021 00100030 00100040 0020000D 00200010 00201206 00201208 00080060 0008103E"
    " 00180015 0020000E 00200011 00201209".split()
)


def _series_json(series: SeriesEntry) -> DataSetJson:
    return {
        "00080060": element("CS", series.modality),
        "0008103E": element("LO", series.series_description),
        "00180015": element("CS", series.body_part_examined),
        "0020000E": element("UI", series.series_instance_uid),
        "00200011": element("IS", series.series_number),
        "00201209": element("IS", series.instances_count),
    }


def _instance_json(instance: StoredInstance) -> DataSetJson:
    header = instance.header
    found = {
        "00080016": element("UI", header.sop_class_uid),
        "00080018": element("UI", header.sop_instance_uid),
        "00083002": element("UI", header.transfer_syntax_uid),
        "00200013": element("IS", header.instance_number),
    }
    if header.has_pixels:
        found |= {
            "00280008": element("IS", header.number_of_frames),
            "00280010": element("US", header.rows),
            "00280011": element("US", header.columns),
            "00280100": element("US", header.bits_allocated),
        }
    return found
