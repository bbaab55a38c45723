"""Which model packages lie in a folder, and what identifies each of them.

Only manifests are read here. The manifest pins every network and golden case by SHA-256, so the
digest of the manifest's own bytes stands for the whole package: two packages of the same digest
give the same findings. The worker checks the pinned files before it loads them.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from service.core.errors import InvalidModel
from service.core.manifest import MANIFEST_NAME, Manifest, manifest_bytes, parse_manifest


@dataclass(frozen=True)
class ModelPackage:
    """A package: its folder, its manifest and the digest that job ids are derived from."""

    folder: Path
    manifest: Manifest
    sha256: str

    @property
    def name(self) -> str:
        """Name of the package, which is also the name of its folder."""
        return self.manifest.package.name

    @property
    def version(self) -> str:
        """Semantic version of the package."""
        return self.manifest.package.version

    @property
    def task(self) -> str:
        """The kind of computer-aided detection the package does."""
        return self.manifest.package.task

    @property
    def kind(self) -> str:
        """Which of the generic kinds reads the networks' output."""
        return self.manifest.package.kind


def read_package(folder: Path) -> ModelPackage:
    """Read the package in `folder`.

    Raises
    ------
    InvalidModel
        ``MANIFEST`` when the manifest is missing or wrong, or names another folder.
    """
    content = manifest_bytes(folder / MANIFEST_NAME)
    manifest = parse_manifest(content.decode(), package=folder.name)
    if manifest.package.name != folder.name:
        raise InvalidModel(
            "MANIFEST",
            f"{folder.name}: package.name: found {manifest.package.name!r}, "
            f"allowed the folder's name {folder.name!r}",
        )
    return ModelPackage(folder, manifest, hashlib.sha256(content).hexdigest())


def installed_packages(models_dir: Path) -> tuple[ModelPackage, ...]:
    """Return every package in a folder of packages, by name; folders without manifest are not.

    Raises
    ------
    InvalidModel
        ``MANIFEST`` for the first package, by name, that is wrong.
    """
    folders = sorted(file.parent for file in models_dir.glob(f"*/{MANIFEST_NAME}"))
    return tuple(read_package(folder) for folder in folders)
