"""Chromium opens pages for the tests and reports what it saw there."""

from pathlib import Path

import pytest

from tests.peers.browser import SCRIPTS, Browser

pytestmark = pytest.mark.peers


def test_chromium_runs_a_page_and_takes_its_picture(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<title>A page</title><script>document.write(6 * 7)</script>")
    picture = tmp_path / "page.png"
    seen = browser.render(page.as_uri(), picture=picture)
    assert seen == {"title": "A page", "text": "42", "errors": []}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_script_that_fails_in_the_browser_says_what_the_page_said(
    browser: Browser, tmp_path: Path
) -> None:
    script = tmp_path / "broken.mjs"
    script.write_text(
        f"import {{ withPage }} from {str(SCRIPTS / 'browser.mjs')!r};\n"
        "await withPage(async (page) => {\n"
        "  await page.setContent('<script>console.log(\"before\")</script>');\n"
        "  throw new Error('nothing there');\n"
        "});\n"
    )
    with pytest.raises(AssertionError, match=r"(?s)nothing there.*before"):
        browser.run(script)


def test_ohif_is_a_built_viewer(ohif_dist: Path) -> None:
    assert "app.bundle" in (ohif_dist / "index.html").read_text()
