"""Rows of received instances, on both databases: idempotent, versioned, and never a loop."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from service.core.errors import RefusedInstance
from service.core.headers import InstanceHeader
from service.core.identifiers import derive_uid
from service.core.received import StudyAttributes
from service.records.archive import ArchivedFile
from service.records.database import Records
from service.records.migrations import migrate
from service.records.studies import (
    ReceivedInstance,
    Registration,
    has_version,
    register_each,
    register_instances,
    register_result,
)
from service.records.tables import events, instances, results, series, studies
from tests.builders.rows import add_job, add_result

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
CT = "1.2.840.10008.5.1.4.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture
def records(database_url: str) -> Iterator[Records]:
    opened = Records(database_url)
    migrate(opened)
    yield opened
    opened.close()


def received(
    instance: str = "i1",
    *,
    study: str = "study",
    in_series: str = "series",
    content: str = "content",
    sop_class: str = CT,
    modality: str = "CT",
    **attributes: str,
) -> ReceivedInstance:
    return ReceivedInstance(
        header=InstanceHeader(
            sop_class_uid=sop_class,
            sop_instance_uid=derive_uid(instance),
            study_instance_uid=derive_uid(study),
            series_instance_uid=derive_uid(in_series),
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            modality=modality,
        ),
        study=StudyAttributes(**{"patient_id": "P1", **attributes}),
        file=ArchivedFile(f"aa/{instance}-{content}.dcm", content.ljust(64, "0"), 100),
        header_bytes=b"header",
        calling_ae_title="MODALITY",
    )


def register(records: Records, *batch: ReceivedInstance, at: datetime = NOW):
    with records.writing() as connection:
        return register_instances(connection, batch, at=at)


def rows(records: Records, table):
    with records.reading() as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()


def complete(records: Records) -> None:
    with records.writing() as connection:
        for table in (studies, series):
            connection.execute(update(table).values(completed_revision=table.c.revision))
        connection.execute(update(studies).values(state="ANALYSED"))


def test_a_batch_makes_studies_series_and_instances_with_their_counts(records):
    outcome = register(
        records,
        received("a"),
        received("b"),
        received("c", in_series="other", modality="SR", sop_class=SR),
        received("d", study="second", in_series="third"),
    )
    assert outcome == [Registration.NEW] * 4
    first, second = sorted(rows(records, studies), key=lambda row: -row.instances_count)
    assert (first.series_count, first.instances_count, first.modalities) == (2, 3, "CT,SR")
    assert (second.series_count, second.instances_count) == (1, 1)
    assert sorted(row.instances_count for row in rows(records, series)) == [1, 1, 2]
    assert {row.revision for row in rows(records, studies)} == {1}
    assert [row.state for row in rows(records, events)] == ["RECEIVING", "RECEIVING"]


def test_a_duplicate_changes_nothing_not_even_the_quiet_time(records):
    register(records, received())
    complete(records)
    before = rows(records, studies), rows(records, series), rows(records, instances)
    assert register(records, received(), received(), at=LATER) == [Registration.DUPLICATE] * 2
    assert (rows(records, studies), rows(records, series), rows(records, instances)) == before


def test_a_duplicate_within_one_batch_is_one(records):
    assert register(records, received(), received()) == [Registration.NEW, Registration.DUPLICATE]
    assert rows(records, studies)[0].instances_count == 1


def test_other_bytes_are_a_new_version_and_open_the_study_again(records):
    register(records, received())
    complete(records)
    assert register(records, received(content="else"), at=LATER) == [Registration.NEW_VERSION]
    assert [(row.version, row.current) for row in rows(records, instances)] == [
        (1, False),
        (2, True),
    ]
    study = rows(records, studies)[0]
    assert (study.revision, study.completed_revision, study.state) == (2, 1, "RECEIVING")
    assert study.last_received_at == LATER
    assert study.instances_count == 1


def test_versions_within_one_batch_leave_the_last_current(records):
    outcome = register(records, *[received(content=content) for content in ("a", "b", "c")])
    assert outcome == [Registration.NEW, Registration.NEW_VERSION, Registration.NEW_VERSION]
    assert [row.current for row in rows(records, instances)] == [False, False, True]


def test_a_late_instance_opens_one_revision_and_not_one_each(records):
    register(records, received("a"))
    complete(records)
    register(records, received("b"), received("c"), at=LATER)
    register(records, received("d"), at=LATER)
    study = rows(records, studies)[0]
    assert (study.revision, study.state, study.instances_count) == (2, "RECEIVING", 4)
    assert rows(records, series)[0].revision == 2
    assert [row.state for row in rows(records, events)] == ["RECEIVING", "RECEIVING"]


def test_a_later_instance_fills_gaps_and_a_corrected_one_overwrites(records):
    register(records, received("a", patient_name="", accession_number="A1"))
    register(records, received("b", patient_name="Tester^Ada", accession_number="A2"))
    study = rows(records, studies)[0]
    assert (study.patient_name, study.accession_number) == ("Tester^Ada", "A1")
    register(records, received("a", content="new", patient_name="Tester^Eve"))
    assert rows(records, studies)[0].patient_name == "Tester^Eve"


def test_values_longer_than_their_columns_are_cut(records):
    odd = received(
        patient_birth_date="20260101-20270101", study_time="1" * 40, patient_sex="x" * 90
    )
    assert register(records, odd) == [Registration.NEW]
    study = rows(records, studies)[0]
    assert (study.patient_birth_date, len(study.study_time)) == ("20260101", 16)


def test_numbers_beyond_their_columns_are_left_out(records):
    big = received()
    header = big.header.model_copy(update={"instance_number": 10**12, "series_number": -(10**12)})
    assert register(records, replace(big, header=header)) == [Registration.NEW]
    assert rows(records, instances)[0].instance_number is None
    assert rows(records, instances)[0].header["instance_number"] == 10**12


def test_our_own_result_never_opens_a_study(records):
    register(records, received("image"))
    complete(records)
    with records.writing() as connection:
        sr = received("sr", in_series="results", modality="SR", sop_class=SR)
        register_result(connection, sr, at=LATER)
    study = rows(records, studies)[0]
    assert (study.revision, study.state, study.last_received_at) == (1, "ANALYSED", NOW)
    assert (study.instances_count, study.series_count, study.modalities) == (1, 1, "CT")
    row = rows(records, instances)[1]
    assert (row.is_result, row.study_id) == (True, study.id)
    assert [s.is_result for s in rows(records, series)] == [False, True]
    assert rows(records, series)[1].revision == rows(records, series)[1].completed_revision


def test_our_own_result_coming_back_changed_is_kept_and_known_by_its_uid(records):
    register(records, received("image"))
    with records.writing() as connection:
        study_id = connection.execute(select(studies.c.id)).scalar_one()
        series_id = connection.execute(select(series.c.id)).scalar_one()
        job = add_job(connection, study_id, series_id)
        result = add_result(connection, study_id, job, sop_class_uid=SR)
        uid = connection.execute(
            select(results.c.sop_instance_uid).where(results.c.id == result)
        ).scalar_one()
    complete(records)
    back = received("sr", in_series="from pacs", modality="SR", sop_class=SR)
    back = replace(back, header=back.header.model_copy(update={"sop_instance_uid": uid}))
    assert register(records, back, at=LATER) == [Registration.NEW]
    assert rows(records, studies)[0].state == "ANALYSED"
    assert rows(records, instances)[1].is_result


def test_a_result_of_an_unknown_study_makes_one_that_waits_for_nothing(records):
    alone = replace(received("sr", modality="SR", sop_class=SR), is_result=True)
    register(records, alone)
    study = rows(records, studies)[0]
    assert (study.state, study.revision, study.completed_revision) == ("NOT_ANALYSED", 0, 0)
    register(records, received("image", in_series="images"), at=LATER)
    study = rows(records, studies)[0]
    assert (study.state, study.revision) == ("RECEIVING", 1)


def test_an_instance_that_moves_to_another_study_is_counted_there(records):
    register(records, received("a"), received("b"))
    moved = received("a", study="other", in_series="other", content="moved")
    assert register(records, moved) == [Registration.NEW_VERSION]
    assert [row.instances_count for row in rows(records, studies)] == [1, 1]
    assert [row.instances_count for row in rows(records, series)] == [1, 1]
    current = [row.study_id for row in rows(records, instances) if row.current]
    assert sorted(current) == [1, 2]


def test_a_poisoned_instance_spoils_only_itself(records):
    poison = received("b")
    header = poison.header.model_copy(update={"series_description": "\x00" * 4, "modality": "x"})
    bad = replace(poison, header=header, file=replace(poison.file, size_bytes=2**70))
    outcome = register_each(records, [received("a"), bad, received("c")], at=NOW)
    assert outcome[0] is Registration.NEW
    assert isinstance(outcome[1], RefusedInstance)
    assert outcome[2] is Registration.NEW
    assert rows(records, studies)[0].instances_count == 2


def test_receivers_side_by_side_agree_on_counts_and_versions(records):
    failures: list[BaseException] = []

    def receive(number: int) -> None:
        try:
            for step in range(8):
                batch = [
                    received(f"{number}-{step}", study=f"study {(number + step) % 3}"),
                    received(f"shared {step}", study="study 0", content=f"{number % 2}"),
                    received(f"{number}-{step} b", study=f"study {step % 3}"),
                ]
                outcomes = register_each(records, batch, at=NOW)
                assert all(isinstance(outcome, Registration) for outcome in outcomes)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=receive, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    stored = rows(records, instances)
    current = [row for row in stored if row.current]
    assert len(current) == len({row.sop_instance_uid for row in stored}) == 4 * 8 * 2 + 8
    assert sum(row.instances_count for row in rows(records, studies)) == len(current)
    assert len(rows(records, studies)) == 3


def test_a_version_is_found_by_its_bytes(records):
    first = received()
    register(records, first, received(content="else"))
    with records.reading() as connection:
        for content, expected in (("content", True), ("else", True), ("none", False)):
            found = has_version(
                connection, sop_instance_uid=first.sop_instance_uid, sha256=content.ljust(64, "0")
            )
            assert found is expected
