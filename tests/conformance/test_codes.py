"""Every code that results are written with exists in the standard's dictionaries."""

from types import MappingProxyType
from typing import Any

import pytest
from pydicom.sr._concepts_dict import concepts

from service.core import codes
from service.core.findings import Code

# Correct where they are used, and absent from pydicom's dictionary: an RFC 5646 language tag, and
# the container of PS3.16 TID 1500 row 12;
# the time point of TID 1502.
OUTSIDE = {("RFC5646", "en-US"), ("UMLS", "C0034375"), ("UMLS", "C2348792")}


def used() -> list[Code]:
    found = [value for value in vars(codes).values() if isinstance(value, Code)]
    for table in vars(codes).values():
        if isinstance(table, MappingProxyType):
            found += [value for value in table.values() if isinstance(value, Code)]
    return sorted(set(found), key=lambda code: (code.scheme, code.value))


def meanings(code: Code) -> set[str]:
    """Every meaning that the dictionary knows for this value."""
    by_keyword: Any = concepts.get(code.scheme, {})
    return {
        meaning
        for values in by_keyword.values()
        for value, (meaning, _contexts) in values.items()
        if value == code.value
    }


@pytest.mark.parametrize("code", used(), ids=lambda code: f"{code.scheme}-{code.value}")
def test_the_code_exists_and_means_what_is_written(code: Code) -> None:
    if (code.scheme, code.value) in OUTSIDE:
        pytest.skip("known to the standard, not to this dictionary")

    known = {meaning.split(" (")[0].lower() for meaning in meanings(code)}
    assert code.meaning.lower() in known


def test_no_code_is_of_a_private_scheme() -> None:
    assert {code.scheme for code in used()} <= {
        "DCM", "IBSI", "LN", "RFC5646", "SCT", "UCUM", "UMLS"
    }  # fmt: skip


def test_axes_are_named_as_viewers_know_them() -> None:
    assert (codes.LONG_AXIS.meaning, codes.SHORT_AXIS.meaning) == ("Long Axis", "Short Axis")
