"""Viewers on our own DICOMweb: a study opens, and its segmentation is really drawn."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from pydicom.dataset import Dataset

from tests.builders.dicom import AXIAL, ct_series, part10
from tests.builders.http import served, site
from tests.builders.results import nodules, result_context, source_frames
from tests.peers.browser import SCRIPTS, Browser
from workers.results.writer import write_results

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(400)]
WAIT_S = 100  # for each of three steps; WebGL in software is slow on a busy machine


@contextmanager
def study_on_site(folder: Path, viewer_dir: Path | None) -> Iterator[tuple[str, Dataset]]:
    """Serve a chest of 24 slices with a segmentation; yields the address and an instance."""
    images = ct_series(slices=24, rows=128, columns=128, orientation=AXIAL, study="opened")
    frames = source_frames(images)
    made = write_results(result_context(images[0]), nodules(frames), frames)
    with (
        site(f"sqlite:///{folder / 'o.db'}", folder, http={"viewer_dir": viewer_dir}) as here,
        served(here.settings, here.records) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        for body in (*map(part10, images), *(result.content for result in made)):
            stored = http.post(
                "/api/v1/studies", content=body, headers={"content-type": "application/dicom"}
            )
            assert stored.status_code == 200, stored.text
        yield url, images[0]


def test_ohif_draws_the_segmentation(browser: Browser, ohif_dist: Path, tmp_path: Path) -> None:
    with study_on_site(tmp_path, ohif_dist) as (url, image):
        seen = browser.run(
            SCRIPTS / "ohif_overlay.mjs",
            limit_s=3 * WAIT_S,
            wait_s=WAIT_S,
            url=url,
            uid=str(image.StudyInstanceUID),
            picture=picture(tmp_path, "ohif.png"),
        )
    assert len(seen["segments"]) == 2
    assert seen["lit"] > 10_000
    assert seen["coloured"] > 200
    # OHIF itself gives up requests for frames that it does not want any more.
    assert [line for line in seen["requests"] if not line.endswith("ERR_ABORTED")] == []


def test_the_built_in_viewer_draws_the_segmentation(browser: Browser, tmp_path: Path) -> None:
    with study_on_site(tmp_path, None) as (url, image):
        seen = browser.run(
            SCRIPTS / "built_in_viewer.mjs",
            url=f"{url}/viewer/viewer?StudyInstanceUIDs={image.StudyInstanceUID}",
            frame=3,
            preset=2,
            picture=picture(tmp_path, "built-in.png"),
        )
    assert seen["series"] == 1
    assert seen["place"] == "3 / 24"
    assert seen["overlaid"]["coloured"] > 20
    assert seen["bare"]["coloured"] == 0
    assert seen["bare"]["lit"] > 1000
    assert seen["errors"] == seen["requests"] == []
    assert not [line for line in seen["console"] if line.startswith("[error]")]


def picture(folder: Path, name: str) -> str:
    """Return where a screenshot goes: a folder that a person names, else the test's own."""
    return str(Path(os.environ.get("PICTURES", folder)) / name)
