"""Accept headers as browsers, OHIF and dicomweb-client write them."""

import pytest

from service.core.errors import InvalidRequest
from service.dicomweb.accept import accepted, choose, chosen_name

OCTETS = "application/octet-stream"


@pytest.mark.parametrize(
    "header",
    [
        "multipart/related; type=application/octet-stream; transfer-syntax=*",
        'multipart/related; type="application/octet-stream"; transfer-syntax=*',
        'text/html;q=0.2, multipart/related;type="application/octet-stream";transfer-syntax="*"',
    ],
)
def test_quoted_and_bare_types_are_the_same(header: str) -> None:
    one = choose(header, [OCTETS])
    assert (one.name, one.multipart, one.transfer_syntax_uid) == (OCTETS, True, "*")


def test_the_most_wanted_comes_first() -> None:
    found = accepted("image/jpeg;q=0.5, image/png;q=0.9, */*;q=0.1, image/gif;q=0")
    assert [one.name for one in found] == ["image/png", "image/jpeg", "*/*"]


@pytest.mark.parametrize("header", ["", "*/*", "image/*", "image/png, */*;q=0.1"])
def test_ranges_take_what_lies_in_them(header: str) -> None:
    names = ("image/png", "image/jpeg")
    assert chosen_name(choose(header, names), names) == "image/png"


@pytest.mark.parametrize(
    "header", ["image/webp", "multipart/related; type=image/png", "x" * 5000, "image/png;q=0", ";,"]
)
def test_nothing_that_fits_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        choose(header, ["image/png"], multipart=False)
    assert refused.value.reason == "NOT_ACCEPTABLE"
