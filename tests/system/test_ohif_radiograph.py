"""OHIF on our own DICOMweb: results on a radiograph are drawn and hydrated."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.core.findings import Analysis
from tests.builders.dicom import part10, radiograph
from tests.builders.http import served, site
from tests.builders.results import radiograph_findings, result_context, source_frames
from tests.peers.browser import SCRIPTS, Browser
from workers.results.rendering import Display
from workers.results.writer import write_results

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(600)]
WAIT_S = 150  # for each step; WebGL in software is slow on a busy machine


@contextmanager
def opened(
    folder: Path, viewer: Path, images: list[Dataset], analysis: Analysis, **changes: Any
) -> Iterator[str]:
    """Serve a study with its results and yield the address that opens it in OHIF."""
    frames = source_frames(images)
    pixels = np.zeros((len(frames), images[0].Rows, images[0].Columns), np.float32)
    made = write_results(
        result_context(images[0], **changes), analysis, frames, display=Display(pixels, (0, 1)),
        also=("gsps", "ko"),
    )  # fmt: skip
    with (
        site(f"sqlite:///{folder / 'o.db'}", folder, http={"viewer_dir": viewer}) as here,
        served(here.settings, here.records) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        for body in (*map(part10, images), *(result.content for result in made)):
            stored = http.post(
                "/api/v1/studies", content=body, headers={"content-type": "application/dicom"}
            )
            assert stored.status_code == 200, stored.text
        yield f"{url}/viewer/viewer?StudyInstanceUIDs={images[0].StudyInstanceUID}"


# Square pixels: OHIF 3.12 exchanges the two spacings when it places coordinates of a report
# (cornerstone3D #2758). Its segments are right with any.
def test_ohif_shows_the_regions_of_a_radiograph_on_a_plane_of_their_own(
    browser: Browser, ohif_dist: Path, tmp_path: Path
) -> None:
    images = radiograph(rows=256, columns=192, spacing_mm=(0.2, 0.2), study="radiograph")
    frames = source_frames(images)
    analysis = radiograph_findings(frames, with_mask=True)
    with opened(tmp_path, ohif_dist, images, analysis, made_up_plane=True) as url:
        seen = looked_at(browser, url, None, picture(tmp_path, "ohif-radiograph"))
    assert len(seen["segments"]) == 1
    assert sum(one["pixels"] for one in seen["coloured"]) > 100
    boxes = [one for one in seen["measured"] if one["tool"] == "RectangleROI"]
    assert boxes


def looked_at(browser: Browser, url: str, lesion: NDArray[np.float64] | None, picture: str) -> Any:
    """Open a study, go to a lesion where one is given, and return what OHIF shows."""
    return browser.run(
        SCRIPTS / "ohif_results.mjs", limit_s=3 * WAIT_S, wait_s=WAIT_S, url=url,
        lesion=None if lesion is None else lesion.tolist(), picture=picture,
    )  # fmt: skip


def picture(folder: Path, name: str) -> str:
    """Return where screenshots go: a folder that a person names, else the test's own."""
    return str(Path(os.environ.get("PICTURES", folder)) / name)
