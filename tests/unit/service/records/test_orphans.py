"""Files that lost their row are set aside; everything else stays."""

import os
import time
from datetime import UTC, datetime

import pytest

from service.core.headers import InstanceHeader
from service.core.received import StudyAttributes
from service.records.archive import Archive
from service.records.database import Records
from service.records.migrations import migrate
from service.records.orphans import set_aside
from service.records.studies import ReceivedInstance, register_instance

NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def records(tmp_path):
    opened = Records(f"sqlite:///{tmp_path / 'overread.db'}")
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def archive(tmp_path) -> Archive:
    made = Archive(tmp_path)
    made.prepare()
    return made


def stored(archive: Archive, uid: str, *, age_s: float = 7200, records: Records | None = None):
    file = archive.store(b"head", b"data", study_instance_uid="1.2", sop_instance_uid=uid)
    moment = time.time() - age_s
    os.utime(archive.path_of(file.path), (moment, moment))
    if records is not None:
        header = InstanceHeader(
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            sop_instance_uid=uid,
            study_instance_uid="1.2",
            series_instance_uid="1.2.1",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
        )
        received = ReceivedInstance(header, StudyAttributes(), file, b"")
        with records.writing() as connection:
            register_instance(connection, received, at=NOW)
    return file


def test_only_settled_files_without_a_row_are_set_aside(archive, records, tmp_path):
    kept = stored(archive, "1.2.3", records=records)
    young = stored(archive, "1.2.4", age_s=10)
    lost = stored(archive, "1.2.5")
    assert set_aside(records, archive) == 1
    assert archive.size_bytes(kept.path)
    assert archive.size_bytes(young.path)
    assert archive.size_bytes(lost.path) is None
    assert [path.read_bytes() for path in (tmp_path / "orphans").iterdir()] == [b"headdata"]


def test_a_young_file_is_looked_at_again_by_the_next_sweep(archive, records):
    young = stored(archive, "1.2.4", age_s=10)
    assert set_aside(records, archive) == 0
    moment = time.time() - 7200
    os.utime(archive.path_of(young.path), (moment, moment))
    assert set_aside(records, archive) == 1


def test_an_empty_archive_has_nothing_to_set_aside(archive, records):
    assert set_aside(records, archive) == 0
    assert set_aside(records, archive) == 0
