"""Disks that are full, read-only, out of inodes or failing, as small file systems of their own."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydicom.uid import ExplicitVRLittleEndian

from service.api.app import create_app
from service.core.settings import (
    DatabaseSettings,
    DicomSettings,
    RetentionSettings,
    Settings,
)
from service.records.database import Records
from service.records.migrations import migrate
from tests.builders.dicom import ct_series, part10
from tests.builders.http import BASE_URL, SetClock
from tests.faults.test_network import body_of, echo, rows_in
from tests.peers.process import wait_for
from tests.peers.raw import ACCEPT, CT, RawPeer, context
from tests.peers.receiver import Receiver

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
STORAGE = context(1, CT, ExplicitVRLittleEndian)


def run(*command: str | Path) -> bool:
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    return done.returncode == 0


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory with these options."""
    folder.mkdir()
    if not run("mount", "-t", "tmpfs", "-o", options, "tmpfs", folder):
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        run("umount", "-l", folder)


@contextlib.contextmanager
def failing_disk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Mount a disk whose device can be made to fail; yields the folder and the device's name."""
    name = f"overread-{folder.parent.name}"[:60].replace("_", "-")
    image = folder.with_suffix(".img")
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(48 << 20)
    if not (shutil.which("dmsetup") and shutil.which("mkfs.ext4")):
        pytest.skip("a failing disk needs dmsetup and mkfs.ext4")
    looped = subprocess.run(
        ["losetup", "--show", "-f", str(image)], capture_output=True, text=True, check=False
    )
    device = looped.stdout.strip()
    if looped.returncode or not run(
        "dmsetup", "create", name, "--table", f"0 {(48 << 20) // 512} linear {device} 0"
    ):
        if device:
            run("losetup", "-d", device)
        pytest.skip("a failing disk needs loop devices and the device mapper")
    try:
        mounted = run("mkfs.ext4", "-q", f"/dev/mapper/{name}") and run(
            "mount", f"/dev/mapper/{name}", folder
        )
        if not mounted:
            pytest.skip("a failing disk cannot be mounted here")
        yield folder, name
    finally:
        run("umount", "-l", folder)
        run("dmsetup", "remove", "--force", name)
        run("losetup", "-d", device)


def fail(name: str) -> None:
    """Let every read and write of a device fail from now on."""
    sectors = (48 << 20) // 512
    assert run("dmsetup", "suspend", "--noflush", "--nolockfs", name)
    assert run("dmsetup", "load", name, "--table", f"0 {sectors} error")
    assert run("dmsetup", "resume", name)


def statuses(port: int, *datasets) -> list[int]:
    with RawPeer(port, timeout_s=30) as peer:
        assert peer.associate(STORAGE)[0] == ACCEPT
        return [
            peer.store(body_of(dataset), instance=dataset.SOPInstanceUID) for dataset in datasets
        ]


@pytest.mark.faults(number=20)
@pytest.mark.faults(number=21)
def test_a_disk_that_fills_up_takes_nothing_by_halves(tmp_path, database_url):
    small, *_ = ct_series(slices=1, rows=32, columns=32)
    big = ct_series(slices=1, name="big", rows=1500, columns=1500)[0]
    with small_disk(tmp_path / "disk", "size=8m") as disk, Receiver(disk, database_url) as running:
        filler = disk / "filler"
        filler.write_bytes(bytes(7 << 20))
        assert statuses(running.port, big) == [OUT_OF_RESOURCES]  # runs full on the way
        left = shutil.disk_usage(disk).free
        (disk / "more").write_bytes(bytes(left))
        assert statuses(running.port, small) == [OUT_OF_RESOURCES]  # full at once
        assert echo(running.port) < 10
        assert running.files() == []
        assert running.unfinished() == []
        assert rows_in(database_url) == 0
        filler.unlink()
        assert statuses(running.port, small, big) == [SUCCESS, SUCCESS]


@pytest.mark.faults(number=20)
def test_a_disk_below_its_watermark_is_not_ready_but_alive(tmp_path, database_url):
    records = Records(database_url)
    migrate(records)
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        settings = Settings(
            data_dir=disk,
            database=DatabaseSettings(url=database_url),
            dicom=DicomSettings(port=0),
            retention=RetentionSettings(min_free_bytes=4 << 20),
        )
        (disk / "filler").write_bytes(bytes(5 << 20))
        with TestClient(
            create_app(settings, records, clock=SetClock()), base_url=BASE_URL
        ) as client:
            ready, alive = client.get("/readyz"), client.get("/healthz")
        assert (ready.status_code, alive.status_code) == (503, 200)
        assert "disk" in ready.json()["missing"]
    records.close()


@pytest.mark.faults(number=22)
def test_a_disk_without_inodes_refuses_and_recovers(tmp_path, database_url, seen):
    with (
        small_disk(tmp_path / "disk", "size=8m,nr_inodes=40") as disk,
        Receiver(disk, database_url) as running,
    ):
        fillers = []
        with contextlib.suppress(OSError):
            for number in range(60):
                fillers.append(disk / f"filler{number}")
                fillers[-1].touch()
        assert statuses(running.port, *ct_series(slices=2)) == [OUT_OF_RESOURCES] * 2
        assert echo(running.port) < 10
        assert rows_in(database_url) == 0
        for filler in fillers:
            filler.unlink(missing_ok=True)
        assert statuses(running.port, *ct_series(slices=2)) == [SUCCESS] * 2


@pytest.mark.faults(number=22)
def test_a_read_only_disk_refuses_and_recovers(tmp_path, database_url):
    with (
        small_disk(tmp_path / "disk", "size=8m") as disk,
        Receiver(disk, database_url) as running,
    ):
        assert statuses(running.port, *ct_series(slices=1, name="first")) == [SUCCESS]
        wait_for(lambda: run("mount", "-o", "remount,ro", disk))
        assert statuses(running.port, *ct_series(slices=1)) == [OUT_OF_RESOURCES]
        assert echo(running.port) < 10
        assert run("mount", "-o", "remount,rw", disk)
        assert statuses(running.port, *ct_series(slices=1)) == [SUCCESS]
    assert rows_in(database_url) == 2


@pytest.mark.faults(number=22)
def test_a_failing_disk_refuses_and_nothing_is_answered_with_success(tmp_path, database_url):
    with failing_disk(tmp_path / "disk") as (disk, name), Receiver(disk, database_url) as running:
        assert statuses(running.port, *ct_series(slices=1, name="first")) == [SUCCESS]
        fail(name)
        assert statuses(running.port, *ct_series(slices=1)) == [OUT_OF_RESOURCES]
        assert echo(running.port) < 10
        assert rows_in(database_url) == 1


@pytest.mark.faults(number=20)
def test_uploads_are_refused_too_when_the_disk_is_full(tmp_path, database_url):
    records = Records(database_url)
    migrate(records)
    with small_disk(tmp_path / "disk", "size=4m") as disk:
        settings = Settings(
            data_dir=disk,
            database=DatabaseSettings(url=database_url),
            dicom=DicomSettings(port=0),
            retention=RetentionSettings(min_free_bytes=0),
        )
        big = ct_series(slices=1, rows=1700, columns=1700)[0]
        with TestClient(
            create_app(settings, records, clock=SetClock()), base_url=BASE_URL
        ) as client:
            answer = client.post(
                "/api/v1/studies",
                content=part10(big),
                headers={"Content-Type": "application/dicom"},
            )
            assert answer.status_code in (503, 507), answer.text
            assert client.get("/healthz").status_code == 200
    records.close()
    assert rows_in(database_url) == 0
