"""A model package's manifest: everything that turns a network's numbers into findings.

A package is data, never code: a folder with ``manifest.toml``, the networks it names and pins by
SHA-256, a card and golden cases. The sections are explained field by field in
``models/README.md``; ``models/manifest.schema.json`` is generated from these classes.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from service.core.errors import InvalidModel
from service.core.manifest_faults import first_fault
from service.core.manifest_input import (
    Applicability,
    Input,
    Network,
    Package,
    Section,
    Tiling,
    TrainingData,
)
from service.core.manifest_output import (
    Calibration,
    ClassificationDecoding,
    ClassSpec,
    DetectionDecoding,
    Golden,
    Guard,
    Measurements,
    Metrics,
    OperatingPoint,
    SegmentationDecoding,
)

MANIFEST_NAME = "manifest.toml"
MANIFEST_BYTES_LIMIT = 1 << 20
_JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"

_ROLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "detection": ("detector", ("reduction", "segmentation", "malignancy")),
    "classification": ("classifier", ()),
    "segmentation": ("segmenter", ()),
}


class Manifest(Section):
    """The whole manifest; the first operating point is in force unless settings name another."""

    schema_version: Literal[1]
    package: Package
    training_data: tuple[TrainingData, ...] = ()
    networks: tuple[Network, ...] = Field(min_length=1)
    applicability: Applicability
    input: Input
    tiling: Tiling | None = None
    decoding: Annotated[
        DetectionDecoding | ClassificationDecoding | SegmentationDecoding,
        Field(discriminator="kind"),
    ]
    classes: tuple[ClassSpec, ...] = Field(min_length=1)
    operating_points: tuple[OperatingPoint, ...] = Field(min_length=1)
    calibration: Calibration = Calibration()
    measurements: Measurements = Measurements()
    guard: Guard = Guard()
    golden: tuple[Golden, ...] = ()
    metrics: Metrics | None = None

    def network(self, role: str) -> Network | None:
        """Return the network that plays a role, if the package has one."""
        return next((network for network in self.networks if network.role == role), None)

    def class_named(self, name: str) -> ClassSpec | None:
        """Return the class of that name."""
        return next((spec for spec in self.classes if spec.name == name), None)

    def operating_point(self, name: str | None = None) -> OperatingPoint:
        """Return the named operating point, or the first.

        Raises
        ------
        InvalidModel
            ``OPERATING_POINT`` when the package has none of that name.
        """
        if name is None:
            return self.operating_points[0]
        for point in self.operating_points:
            if point.name == name:
                return point
        allowed = ", ".join(point.name for point in self.operating_points)
        raise InvalidModel(
            "OPERATING_POINT",
            f"{self.package.name}: operating_point: found {name!r}, allowed {allowed}",
        )

    @model_validator(mode="before")
    @classmethod
    def _decode_by_kind(cls, values: Any) -> Any:
        # The author says the kind once, in [package]; [decoding] is read by it.
        if not isinstance(values, dict) or not isinstance(values.get("package"), dict):
            return values
        decoding = values.get("decoding", {})
        if not isinstance(decoding, dict):
            return values
        return {**values, "decoding": {"kind": values["package"].get("kind"), **decoding}}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for fault in (self._wrong_kind(), self._wrong_roles(), self._wrong_classes()):
            if fault:
                raise ValueError(fault)
        return self

    def _wrong_kind(self) -> str | None:
        kind, size, tiling = self.package.kind, self.input.size, self.tiling
        image = kind == "classification"
        flat = self.input.context_slices > 0
        edges = "(rows, columns)" if image else "(z, y, x)"
        sized = size is not None and len(size) == (2 if image else 3)
        tiled = tiling is None or len(tiling.patch) == (2 if flat else 3)
        faults = {
            f"decoding.kind is {self.decoding.kind}, package.kind is {kind}": (
                self.decoding.kind != kind
            ),
            f"input.size must be {edges} for a {kind}": not sized and (image or size is not None),
            f"input.spacing_mm is missing for a {kind}": not image
            and self.input.spacing_mm is None,
            "a detection needs tiling": kind == "detection" and tiling is None,
            "a detection by heat map needs input.axes SPL": self.input.axes != "SPL"
            and isinstance(self.decoding, DetectionDecoding)
            and self.decoding.form == "heat",
            "a detection by boxes has one class": isinstance(self.decoding, DetectionDecoding)
            and self.decoding.form == "boxes"
            and len(self.classes) != 1,
            f"tiling (or a fixed input.size) is missing for a {kind}": not image
            and tiling is None
            and size is None,
            f"tiling.patch must be {'(y, x)' if flat else '(z, y, x)'} for this network": not tiled,
        }
        return next((message for message, wrong in faults.items() if wrong), None)

    def _wrong_roles(self) -> str | None:
        main, others = _ROLES[self.package.kind]
        roles = [network.role for network in self.networks]
        if main not in roles:
            return f"networks: no {main} among {', '.join(roles)}"
        for network in self.networks:
            if network.role != main and network.role not in others:
                return f"networks: role {network.role} has no part in a {self.package.kind}"
            if roles.count(network.role) > 1:
                return f"networks: role {network.role} twice"
            if network.role != main and network.crop is None:
                return f"networks: {network.role} needs crop"
        return None

    def _wrong_classes(self) -> str | None:
        names = [spec.name for spec in self.classes]
        if len(set(names)) != len(names):
            return "classes: two have the same name"
        points = [point.name for point in self.operating_points]
        if len(set(points)) != len(points):
            return "operating_points: two have the same name"
        referred = {name for point in self.operating_points for name in point.classes}
        referred |= set(self.calibration.classes)
        referred |= {rule.class_name for rule in self.guard.rules if rule.class_name}
        if isinstance(self.decoding, SegmentationDecoding) and self.decoding.within:
            referred.add(self.decoding.within)
        unknown = sorted(referred - set(names))
        return (
            f"no class is named {', '.join(unknown)}; there are {', '.join(names)}"
            if unknown
            else None
        )


def parse_manifest(text: str, *, package: str) -> Manifest:
    """Return the manifest written in `text`; `package` names it in errors.

    Raises
    ------
    InvalidModel
        ``MANIFEST`` with one line: package, field, what was found and what is allowed.
    """
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidModel("MANIFEST", f"{package}: {MANIFEST_NAME}: {error}") from error
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise InvalidModel("MANIFEST", f"{package}: {first_fault(error, Manifest)}") from error


def manifest_schema() -> str:
    """Return the JSON schema of a manifest, as it is published in ``manifest.schema.json``."""
    schema = Manifest.model_json_schema()
    return json.dumps({"$schema": _JSON_SCHEMA, **schema}, indent=1, sort_keys=True) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Read a ``manifest.toml``, or the one in a package's folder.

    Raises
    ------
    InvalidModel
        ``MANIFEST`` when the file is missing, too long, not UTF-8 or not a valid manifest.
    """
    file = path / MANIFEST_NAME if path.is_dir() else path
    return parse_manifest(manifest_bytes(file).decode(), package=file.parent.name)


def manifest_bytes(file: Path) -> bytes:
    """Return the bytes of a manifest after checking size and encoding."""
    package = file.parent.name
    try:
        with file.open("rb") as stream:
            content = stream.read(MANIFEST_BYTES_LIMIT + 1)
        content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidModel("MANIFEST", f"{package}: {MANIFEST_NAME}: {error}") from error
    if len(content) > MANIFEST_BYTES_LIMIT:
        raise InvalidModel("MANIFEST", f"{package}: {MANIFEST_NAME}: found more than 1 MiB")
    return content
