"""OHIF's files below /viewer: their addresses fitted, everything else as it is."""

import asyncio
import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from starlette.exceptions import HTTPException

from service.core.errors import InvalidRequest
from service.web import viewer_install
from service.web.ohif import OhifFiles, config, fitted

INDEX = (
    b'<html><head><script>console.time("x")</script><link href="/a.css">'
    b'<script src="/app.bundle.js"></script></head><body>\n<a href="//other"></a></body></html>'
)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / "index.html").write_bytes(INDEX)
    (folder / "app.bundle.js").write_bytes(b'n.p="/";fetch("/");o.path="/"')
    (folder / "a.css").write_bytes(b"a{src:url(/b.woff2)}b{src:url(data:x)}")
    (folder / "b.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.js").write_bytes(b"secret")
    return folder


def got(build: Path, path: str) -> tuple[int, bytes]:
    scope = {"type": "http", "method": "GET", "headers": [], "path": path}
    response = asyncio.run(OhifFiles(build).get_response(path, scope))
    assert response.headers["cross-origin-embedder-policy"] == "require-corp"
    return response.status_code, getattr(response, "body", b"")


def test_addresses_of_the_page_move_and_inline_scripts_go(build: Path) -> None:
    page = fitted(build / "index.html", 0)
    assert b"console.time" not in page
    assert b'<head><script src="/viewer/boot.js"></script>' in page
    assert b'href="/viewer/a.css"' in page
    assert b'src="/viewer/app.bundle.js"' in page
    assert b'href="//other"' in page


def test_the_public_path_moves_and_other_code_does_not(build: Path) -> None:
    assert fitted(build / "app.bundle.js", 0) == b'n.p="/viewer/";fetch("/");o.path="/"'
    assert fitted(build / "a.css", 0) == b"a{src:url(/viewer/b.woff2)}b{src:url(data:x)}"


def test_addresses_of_the_application_show_its_page(build: Path) -> None:
    for path in (".", "viewer", "index.html"):
        status, body = got(build, path)
        assert status == 200
        assert b"boot.js" in body


def test_the_settings_ask_our_own_dicomweb(build: Path) -> None:
    assert got(build, "app-config.js") == (200, config().encode())
    assert '"/dicom-web"' in config()


def test_nothing_outside_of_the_folder_is_served(build: Path) -> None:
    for path in ("../secret.js", "missing.js"):
        with pytest.raises(HTTPException, match="404"):
            got(build, path)
    assert b"boot.js" in got(build, "/etc/passwd")[1]


def package(folder: Path, *names: str) -> Path:
    file = folder / "viewer.tgz"
    with tarfile.open(file, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"{}"))
    return file


def install(folder: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    monkeypatch.setattr(viewer_install, "INTEGRITY", f"sha512-{digest}")
    viewer_install.install(folder, archive=archive, progress=lambda done, whole: None)


def test_an_archive_is_unpacked_without_what_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = package(
        tmp_path, "package/dist/index.html", "package/dist/app.js.map", "package/dist/ort/a.wasm",
        "package/dist/assets/i.png", "package/package.json",
    )  # fmt: skip
    install(tmp_path / "viewer", archive, monkeypatch)
    found = {str(p.relative_to(tmp_path / "viewer")) for p in (tmp_path / "viewer").rglob("*.*")}
    assert found == {"index.html", "assets/i.png"}


def test_another_content_than_the_pinned_is_not_installed(tmp_path: Path) -> None:
    archive = package(tmp_path, "package/dist/index.html")
    with pytest.raises(InvalidRequest, match="VIEWER_CHANGED"):
        viewer_install.install(
            tmp_path / "viewer", archive=archive, progress=lambda done, whole: None
        )
    assert not (tmp_path / "viewer").exists()


def test_an_archive_that_climbs_out_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = package(tmp_path, "package/dist/index.html", "package/dist/../../../../out.txt")
    with pytest.raises(Exception, match="out"):
        install(tmp_path / "viewer", archive, monkeypatch)
    assert not (tmp_path / "viewer").exists()
