"""The archive's folder: names, half-written files, watermark, and what a crash leaves."""

import hashlib
import os
import time

import pytest

from service.core.errors import NotFound, OutOfResources
from service.records.archive import Archive


@pytest.fixture
def archive(tmp_path) -> Archive:
    made = Archive(tmp_path)
    made.prepare()
    return made


def store(archive: Archive, data: bytes = b"data", uid: str = "1.2.3"):
    return archive.store(b"header", data, study_instance_uid="1.2", sop_instance_uid=uid)


def test_a_stored_instance_is_read_back_with_its_digest(archive):
    file = store(archive)
    assert archive.read(file.path) == b"headerdata"
    assert file.sha256 == hashlib.sha256(b"data").hexdigest()
    assert file.size_bytes == archive.size_bytes(file.path) == 10


def test_names_hold_nothing_that_was_received(archive):
    file = store(archive, uid="../../../etc/passwd")
    assert set(file.path) <= set("0123456789abcdef/-.dcm")
    assert archive.path_of(file.path).resolve().is_relative_to(archive.root.resolve())


def test_the_same_instance_has_the_same_name_and_other_bytes_another(archive):
    assert store(archive).path == store(archive).path
    assert store(archive).path != store(archive, b"else").path
    assert store(archive).path != store(archive, uid="1.2.4").path


def test_a_spool_that_is_not_kept_vanishes(archive, tmp_path):
    with archive.spool() as spool:
        spool.write(b"x" * 100)
        assert len(list((tmp_path / "incoming").iterdir())) == 1
    assert list((tmp_path / "incoming").iterdir()) == []


def test_what_a_crash_left_is_removed_once_it_is_old(archive, tmp_path):
    old, young = tmp_path / "incoming" / "old.part", tmp_path / "incoming" / "young.part"
    for path in (old, young):
        path.write_bytes(b"half")
    long_ago = time.time() - 4000
    os.utime(old, (long_ago, long_ago))
    archive.prepare()
    assert not old.exists()
    assert young.exists()


def test_a_disk_below_its_watermark_takes_nothing(tmp_path):
    archive = Archive(tmp_path, min_free_bytes=1 << 62)
    archive.prepare()
    with pytest.raises(OutOfResources) as caught:
        archive.require_space()
    assert caught.value.reason == "DISK_LOW"


def test_a_disk_that_is_away_is_told_as_such(tmp_path):
    with pytest.raises(OutOfResources) as caught:
        Archive(tmp_path / "not mounted").require_space()
    assert caught.value.reason == "DISK_ERROR"


def test_deleting_takes_empty_folders_along_and_may_be_repeated(archive):
    first, second = store(archive), store(archive, uid="1.2.4")
    archive.delete(first.path)
    archive.delete(first.path)
    assert archive.read(second.path)
    archive.delete(second.path)
    assert list(archive.root.iterdir()) == []
    assert archive.size_bytes(second.path) is None


def test_a_folder_that_was_deleted_in_between_is_made_again(archive):
    with archive.spool() as spool:
        spool.write(b"data")
        path = archive.place(spool, study_instance_uid="1.2", sop_instance_uid="1.2.3")
        archive.path_of(path).parent.mkdir(parents=True)
        archive.delete(path)
        archive.keep([(spool, path)])
    assert archive.read(path) == b"data"


@pytest.mark.parametrize("path", ["../outside.dcm", "aa/../../outside.dcm", "/etc/passwd"])
def test_no_path_leads_out_of_the_archive(archive, path):
    with pytest.raises(NotFound):
        archive.read(path)


def test_a_missing_file_is_named(archive):
    with pytest.raises(NotFound) as caught:
        archive.read("aa/bb.dcm")
    assert caught.value.reason == "FILE_MISSING"
