"""Get the real peers that are missing: by apt where this is root's Debian, and by npm.

Nothing here fails a test run: what cannot be installed stays missing, its tests skip, and pytest
says so (with `--require-peers`: fails).
"""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.peers.catalogue import NpmPackage, RealPeer, missing

APT_LIMIT_S = 1200
NPM_LIMIT_S = 600

# Debian starts a server as soon as it is installed; this file, where no other is, forbids it.
# The tests start their own, on ports and folders of their own.
POLICY = Path("/usr/sbin/policy-rc.d")
_DENY = "#!/bin/sh\nexit 101\n"

_APT = (
    "apt-get",
    "-qq",
    "-o=Acquire::Retries=3",
    "-o=DPkg::Lock::Timeout=300",
    "-o=Dpkg::Use-Pty=0",
)


def main() -> int:
    """Install what is missing and say what was done."""
    wanted = missing()
    if not wanted:
        return 0
    packages = _debian_packages(wanted)
    if packages and _may_use_apt():
        _say(f"installing {' '.join(packages)}")
        with _no_services_started():
            _install_debian(packages)
    for package in (peer.npm for peer in missing() if peer.npm):
        _say(f"downloading {package.name} {package.version}")
        _install_npm(package)
    for peer in missing():
        _say(f"{peer.name} is still missing; to get it: {peer.how_to_get}")
    return 0


def _say(line: str) -> None:
    print(f"tests/run: {line}", file=sys.stderr, flush=True)


def _debian_packages(peers: Sequence[RealPeer]) -> list[str]:
    """Return the packages of the peers, and npm where it is needed for the others."""
    packages = [package for peer in peers for package in peer.debian]
    if any(peer.npm for peer in peers) and not shutil.which("npm"):
        packages.append("npm")
    return sorted(set(packages))


def _may_use_apt() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


@contextmanager
def _no_services_started() -> Iterator[None]:
    """Keep Debian from starting the servers that it installs."""
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text(_DENY)
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink(missing_ok=True)


def _install_debian(packages: Sequence[str]) -> None:
    """Install the packages together, or, where that fails, those that can be had."""
    # Slim images have no manual pages, and the postinst of Java's package fails without this.
    Path("/usr/share/man/man1").mkdir(parents=True, exist_ok=True)
    if not any(_ran([*_APT, "update"], APT_LIMIT_S) for _ in range(3)):
        return
    install = [*_APT, "-y", "--no-install-recommends", "install"]
    if not _ran([*install, *packages], APT_LIMIT_S):
        for package in packages:
            _ran([*install, package], APT_LIMIT_S)


def _install_npm(package: NpmPackage) -> None:
    """Download a package without what it depends on, verify and unpack it."""
    if not shutil.which("npm"):
        return
    target = package.folder.parent
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pack = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        if not _ran(pack, NPM_LIMIT_S, cwd=folder):
            return
        (archive,) = Path(folder).glob("*.tgz")
        if not _is_intact(archive, package.integrity):
            _say(f"{package.name}: the content differs from what is pinned; not used")
            return
        unpacked = Path(folder) / "unpacked"
        unpacked.mkdir()
        if _ran(["tar", "-xzf", str(archive), "-C", str(unpacked), "--exclude=*.map"], NPM_LIMIT_S):
            shutil.rmtree(target, ignore_errors=True)
            unpacked.rename(target)


def _is_intact(archive: Path, integrity: str) -> bool:
    """Return whether a file has the digest written as in package locks."""
    algorithm, _, expected = integrity.partition("-")
    digest = hashlib.new(algorithm, archive.read_bytes()).digest()
    return base64.b64encode(digest).decode() == expected


def _ran(command: Sequence[str], limit_s: float, *, cwd: str | None = None) -> bool:
    """Run a command; when it fails, show what it said and return False."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=quiet,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _say(f"{command[0]}: {error}")
        return False
    if done.returncode:
        _say(f"{' '.join(command)} ended with {done.returncode}")
        print("\n".join(done.stdout.splitlines()[-20:]), file=sys.stderr, flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
