"""The real peers that the tests talk to: how each is found, and how to get it.

Standard library only: `tests/run` reads this before anything is installed.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NpmPackage:
    """A package of the npm registry, pinned by version and content."""

    name: str
    version: str
    integrity: str

    @property
    def folder(self) -> Path:
        """Where its content lies, outside the checkout."""
        return cache_dir() / f"{self.name.strip('@').replace('/', '-')}-{self.version}" / "package"


@dataclass(frozen=True)
class RealPeer:
    """A program that some tests need, from Debian or from npm."""

    name: str
    find: Callable[[], Path | None]
    debian: tuple[str, ...] = ()
    npm: NpmPackage | None = None

    @property
    def how_to_get(self) -> str:
        """One line for the person who wants its tests to run."""
        if self.npm:
            return f"npm pack {self.npm.name}@{self.npm.version}, as `tests/run` does"
        return f"apt-get install {' '.join(self.debian)}"


def cache_dir() -> Path:
    """Return the folder that keeps downloaded peers between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "overread-tests"


def _program(*names: str) -> Callable[[], Path | None]:
    """Return a finder for the first of the programs on PATH or in the folders of daemons."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])

    def find() -> Path | None:
        found = (shutil.which(name, path=path) for name in names)
        return next((Path(program) for program in found if program), None)

    return find


def _file(*patterns: str) -> Callable[[], Path | None]:
    """Return a finder for the newest file that matches one of the absolute patterns."""

    def find() -> Path | None:
        for pattern in patterns:
            found = sorted(Path("/").glob(pattern.lstrip("/")))
            if found:
                return found[-1]
        return None

    return find


def _in_package(package: NpmPackage, path: str) -> Callable[[], Path | None]:
    """Return a finder for a file of an unpacked npm package."""

    def find() -> Path | None:
        found = package.folder / path
        return found if found.exists() else None

    return find


OHIF_PACKAGE = NpmPackage(
    "@ohif/app",
    "3.12.10",
    "sha512-0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA==",
)
# The last line that runs on Debian 12's Node.js 18.
PLAYWRIGHT_PACKAGE = NpmPackage(
    "playwright-core",
    "1.61.1",
    "sha512-h7Qlt6m4REp25qvIdvbDtVmD4LqVXfpRxhORv9L0jzETM05p4fuPJ3dKyuSXQxDSbXnmS79HAgi9589lGSpLkg==",
)

# Looks at pages for what keeps people from using them; only the tests load it.
AXE_PACKAGE = NpmPackage(
    "axe-core",
    "4.14.1",
    "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
)

ORTHANC = RealPeer("Orthanc", _program("Orthanc", "orthanc"), ("orthanc",))
ORTHANC_DICOMWEB = RealPeer(
    "Orthanc's DICOMweb plug-in",
    _file("/usr/share/orthanc/plugins/libOrthancDicomWeb.so*"),
    ("orthanc-dicomweb",),
)
DCMTK = RealPeer("dcmtk", _program("dsrdump"), ("dcmtk",))
DICOM3TOOLS = RealPeer("dicom3tools", _program("dciodvfy"), ("dicom3tools",))
REDIS = RealPeer("Redis", _program("redis-server", "valkey-server"), ("redis-server",))
POSTGRESQL = RealPeer("PostgreSQL", _file("/usr/lib/postgresql/*/bin/postgres"), ("postgresql",))
CHROMIUM = RealPeer("Chromium", _program("chromium", "chromium-browser"), ("chromium",))
JAVA = RealPeer("Java", _program("java"), ("default-jre-headless",))
PIXELMED = RealPeer("PixelMed", _file("/usr/share/java/pixelmed.jar"), ("libpixelmed-java",))
NODE = RealPeer("Node.js", _program("node"), ("nodejs",))
OHIF = RealPeer("OHIF", _in_package(OHIF_PACKAGE, "dist/index.html"), npm=OHIF_PACKAGE)
PLAYWRIGHT = RealPeer(
    "playwright-core",
    _in_package(PLAYWRIGHT_PACKAGE, "package.json"),
    npm=PLAYWRIGHT_PACKAGE,
)
AXE = RealPeer("axe-core", _in_package(AXE_PACKAGE, "axe.min.js"), npm=AXE_PACKAGE)

EVERY_PEER = (
    ORTHANC, ORTHANC_DICOMWEB, DCMTK, DICOM3TOOLS, REDIS, POSTGRESQL, CHROMIUM, JAVA, PIXELMED,
    NODE, OHIF, PLAYWRIGHT, AXE,
)  # fmt: skip


def missing() -> list[RealPeer]:
    """Return the peers that are not here."""
    return [peer for peer in EVERY_PEER if peer.find() is None]
