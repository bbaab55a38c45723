import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pydicom
import pypdfium2
import pytest
from numpy.typing import NDArray

from service.core.errors import InvalidResult
from service.core.findings import Analysis
from tests.builders.dicom import ct_series, pattern_hu, radiograph
from tests.builders.results import (
    nodules,
    nothing_found,
    radiograph_findings,
    result_context,
    source_frames,
)
from workers.results.context import ResultContext, WrittenResult
from workers.results.document import write_document
from workers.results.rendering import Display
from workers.results.sheet import sheet_of
from workers.results.source import read_source
from workers.results.typesetting import typeset
from workers.results.validate import validate_result

DISPLAY = Display(pattern_hu(12, 40, 32), (-1000.0, 400.0))


def document(analyse: Callable[..., Analysis] = nodules, **source: Any) -> WrittenResult:
    instances = ct_series(**source)
    frames, context = source_frames(instances), result_context(instances[0])
    return write_document(
        context, read_source(context.source_header), analyse(frames), frames=frames, display=DISPLAY
    )


def opened(result: WrittenResult) -> Any:
    return pydicom.dcmread(io.BytesIO(result.content))


def pages(result: WrittenResult) -> list[Any]:
    dataset = opened(result)
    pdf = pypdfium2.PdfDocument(dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength])
    return list(pdf)


def words(result: WrittenResult) -> str:
    said = "\n".join(page.get_textpage().get_text_bounded() for page in pages(result))
    return " ".join(said.split())


def test_the_document_says_who_what_how_sure_and_what_it_is_not() -> None:
    said = words(document(PatientName="Doe^Jane", PatientID="P-7"))

    for expected in (
        "Jane", "P-7", "2 findings.", "Nodule", "Lung, right", "93 %", "long axis 7.7 mm",
        "volume 231 mm³", "likelihood of malignancy 41 %",
        "Result of an algorithm, not reviewed by a physician.",
        "For research, not for clinical use.",
        "lung_nodule 1.2.0", "operating_point balanced",
    ):  # fmt: skip
        assert expected in said


def test_a_negative_study_says_so_and_shows_no_picture() -> None:
    result = document(lambda _frames: nothing_found())

    assert "No findings." in words(result)
    assert "Key images" not in words(result)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Wang^XiaoDong=王^小东", ["Wang XiaoDong", "王", "小东"]),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["山田", "太郎", "やまだ"]),
        ("Hong^Gildong=洪^吉洞=홍^길동", ["洪", "길동"]),
        ("Люкceмбypг", ["Люкceмбypг"]),
        ("Διονυσιος", ["Διονυσιος"]),
        ("Rare=𠮷^野", ["[U+20BB7]", "野"]),
        ('Q"uote\x07^Bell', ['Q"uote']),
    ],
)
def test_names_of_any_script_are_words_and_never_boxes(name: str, shown: list[str]) -> None:
    # PDF/A-2b, which the typesetter enforces, has no place for a character without a glyph.
    said = words(document(PatientName=name, SpecificCharacterSet="ISO_IR 192"))

    for part in shown:
        assert part in said


def test_outlines_are_drawn_on_the_key_images() -> None:
    page = pages(document())[0]
    pixels: NDArray[np.int16] = np.asarray(page.render(scale=2).to_pil(), np.int16)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 120) & (pixels[..., 2] < 120)

    assert red.sum() > 200


def test_a_repeat_gives_the_same_bytes_and_another_day_others() -> None:
    instances = ct_series()
    frames, context = source_frames(instances), result_context(instances[0])
    source, analysis = read_source(context.source_header), nodules(frames)

    def content(context: ResultContext) -> bytes:
        return write_document(context, source, analysis, frames=frames, display=DISPLAY).content

    later = replace(context, created_at=context.created_at.replace(day=2))
    assert content(context) == content(context) != content(later)


def test_what_looks_like_markup_is_set_as_it_stands() -> None:
    said = words(document(PatientName="#strong[x]^$a$", StudyDescription="*bold* @ref <label>"))

    assert "#strong[x]" in said
    assert "*bold* @ref <label>" in said


def test_a_radiograph_fits_on_one_page_with_its_picture() -> None:
    instances = radiograph()
    frames, context = source_frames(instances), result_context(instances[0])
    display = Display(instances[0].pixel_array[None])

    result = write_document(
        context, read_source(context.source_header), radiograph_findings(frames),
        frames=frames, display=display,
    )  # fmt: skip

    assert len(pages(result)) == 1
    assert "Pleural effusion" in words(result)
    assert "4 % (absent)" in words(result)


def test_many_findings_run_over_pages_with_their_head_repeated() -> None:
    instances = ct_series(slices=40)
    frames, context = source_frames(instances), result_context(instances[0])
    analysis = nodules(frames, count=40)

    sheet = sheet_of(
        context, read_source(context.source_header), analysis, frames=frames, captions=()
    )
    pdf = pypdfium2.PdfDocument(typeset(sheet, [], created_at=context.created_at))

    assert len(pdf) > 1
    assert all(
        "Measurements" in page.get_textpage().get_text_bounded()
        for page in list(pdf)[: len(pdf) - 1]
    )


@pytest.mark.parametrize("broken", [b"%PDF-1.7 cut", b"no document %%EOF"])
def test_a_broken_document_does_not_pass(broken: bytes) -> None:
    instances = ct_series()
    frames, context = source_frames(instances), result_context(instances[0])
    source, analysis = read_source(context.source_header), nodules(frames)
    result = write_document(context, source, analysis, frames=frames)
    dataset = opened(result)
    dataset.EncapsulatedDocument = broken + b"\0" * (len(broken) % 2)
    dataset.EncapsulatedDocumentLength = len(broken)
    buffer = io.BytesIO()
    dataset.save_as(buffer)

    with pytest.raises(InvalidResult) as refused:
        validate_result(
            replace(result, content=buffer.getvalue()), context, source,
            analysis=analysis, frames=frames,
        )  # fmt: skip

    assert refused.value.reason == "DOCUMENT_BROKEN"
