"""Independent DICOM programs: dcmtk's clients and printers, and two object validators."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 120

# PixelMed's template checks exceed the JDK's limits on the size of XPath expressions.
_LIFTED_XPATH_LIMITS = (
    "-Djdk.xml.xpathExprOpLimit=0",
    "-Djdk.xml.xpathTotalOpLimit=0",
    "-Djdk.xml.xpathExprGrpLimit=0",
    "-Djdk.xml.entityExpansionLimit=0",
)

# A short run gains more from starting soon than from compiling well.
_QUICK_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


@dataclass(frozen=True)
class Verdict:
    """What a validator said about one object."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    output: str


class Dcmtk:
    """The dcmtk programs: `dcmtk("echoscu", "127.0.0.1", port)`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(
        self, program: str, *arguments: str | int | Path, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the programs; its output is in ``stdout``, errors included.

        With ``check``, a failing program raises `AssertionError` with what it printed.
        """
        return _run([self._folder / program, *arguments], check=check)


class Dciodvfy:
    """David Clunie's validator of information object definitions (dicom3tools)."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def __call__(self, path: Path) -> Verdict:
        """Validate one file against its IOD and return what was found."""
        output = _run([self._program, "-new", path], check=False).stdout
        return _verdict(output)


class PixelMed:
    """PixelMed's validator of structured report templates, which IHE's checks of AIR use."""

    def __init__(self, java: Path, library: Path) -> None:
        self._java = java
        self._library = library

    def __call__(self, path: Path) -> Verdict:
        """Validate one SR document against its templates and return what was found."""
        classes = ":".join(str(jar) for jar in sorted(self._library.parent.glob("*.jar")))
        command = [self._java, *_QUICK_START, *_LIFTED_XPATH_LIMITS, "-cp", classes]
        done = _run([*command, "com.pixelmed.validate.DicomSRValidator", path], check=True)
        lines = [line for line in done.stdout.splitlines() if not line.startswith("SLF4J")]
        return _verdict("\n".join(lines))


def _verdict(output: str) -> Verdict:
    """Sort a validator's lines by what they begin with."""
    lines = output.splitlines()
    errors = tuple(line for line in lines if re.match(r"error\b", line, re.IGNORECASE))
    warnings = tuple(line for line in lines if re.match(r"warning\b", line, re.IGNORECASE))
    return Verdict(errors, warnings, output)


def _run(command: Sequence[object], *, check: bool) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=LIMIT_S,
        check=False,
    )
    assert not check or done.returncode == 0, f"{command} ended {done.returncode}:\n{done.stdout}"
    return done
