"""Keys and certificates for tests of TLS, made by openssl: an authority and whom it vouches for."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Identity:
    """A certificate and its key as PEM files, and the authority to check others by."""

    certificate: Path
    key: Path
    authority: Path


def identities(folder: Path, *names: str) -> dict[str, Identity]:
    """Return identities on 127.0.0.1 that one authority signed, by name."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not here")

    def run(*arguments: str) -> None:
        command = [openssl, *arguments]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    folder.mkdir(parents=True, exist_ok=True)
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run("req", "-x509", *new, "-days", "2", "-subj", "/CN=authority",
        "-keyout", "authority-key.pem", "-out", "authority.pem")  # fmt: skip
    (folder / "names.txt").write_text("subjectAltName=IP:127.0.0.1\n")
    found = {}
    for name in names:
        run("req", *new, "-subj", f"/CN={name}", "-keyout", f"{name}-key.pem", "-out", "r.csr")
        run("x509", "-req", "-in", "r.csr", "-days", "2", "-CA", "authority.pem",
            "-CAkey", "authority-key.pem", "-CAcreateserial", "-extfile", "names.txt",
            "-out", f"{name}.pem")  # fmt: skip
        found[name] = Identity(
            folder / f"{name}.pem", folder / f"{name}-key.pem", folder / "authority.pem"
        )
    return found
