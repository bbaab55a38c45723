"""Words in the worklist, on both databases: by their index and, where it is missing, without."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text, update

from service.records import search, worklist
from service.records.database import Records
from service.records.migrations import migrate
from service.records.tables import studies
from service.records.worklist_query import WorklistQuery
from tests.builders.rows import add_study


@pytest.fixture
def records(database_url: str) -> Iterator[Records]:
    opened = Records(database_url)
    migrate(opened)
    yield opened
    opened.close()


def found(records: Records, words: str) -> list[str]:
    with records.reading() as connection:
        page = worklist.page(connection, WorklistQuery(q=words, sort="patient_id"))
    return [item.patient_id for item in page.items]


@pytest.mark.parametrize("indexed", [True, False])
def test_words_are_found_in_any_text_and_case(records: Records, indexed: bool) -> None:
    with records.writing() as connection:
        if not indexed and records.is_sqlite:
            for name in ("insert", "delete", "update"):
                connection.execute(text(f"DROP TRIGGER studies_search_{name}"))
            connection.execute(text("DROP TABLE studies_search"))
        if not indexed and not records.is_sqlite:
            connection.execute(text("DROP INDEX IF EXISTS ix_studies_search"))
        add_study(connection, patient_id="P-1", patient_name="Müller^Anna", accession_number="A%7")
        add_study(connection, patient_id="P-2", patient_name="Mueller^Bert", accession_number='B"8')
    assert found(records, "ANNA") == ["P-1"]
    assert found(records, "p-") == ["P-1", "P-2"]
    assert found(records, "eller p-2") == ["P-2"]
    assert found(records, "a%7") == ["P-1"]
    assert found(records, 'b"8') == ["P-2"]
    assert found(records, "anna bert") == []


def test_a_corrected_name_is_found_and_the_old_one_is_not(records: Records) -> None:
    with records.writing() as connection:
        add_study(connection, patient_id="P-1", patient_name="Wrong^Name")
    with records.writing() as connection:
        connection.execute(update(studies).values(patient_name="Right^Name"))
    assert (found(records, "right"), found(records, "wrong")) == (["P-1"], [])


def test_a_deleted_study_is_not_found(records: Records) -> None:
    with records.writing() as connection:
        add_study(connection, patient_id="P-1", patient_name="Gone^Away")
    with records.writing() as connection:
        connection.execute(studies.delete())
    assert found(records, "gone") == []


def test_the_index_is_there_where_the_database_can(records: Records) -> None:
    with records.reading() as connection:
        condition = str(search.contains(connection, "word"))
    assert ("MATCH" in condition) is records.is_sqlite
