"""Reports as HL7 messages, taken by a real MLLP server and read by another parser."""

import ssl
from collections.abc import Iterator

import pytest

from service.core.errors import PeerRefused, PeerUnavailable
from service.core.settings import Destination
from service.core.states import JobState
from service.records import report_content
from service.records.database import Records
from service.records.migrations import migrate
from service.records.report_content import ReportContent
from tests.builders import rows
from tests.builders.certificates import Identity, identities
from tests.peers.mllp import MllpReceiver
from tests.peers.ports import free_port
from workers.delivery import mllp

NEWEST_RESULT = "SELECT sop_instance_uid FROM results ORDER BY id DESC LIMIT 1"
HOSTILE = "O'Brien|^~\\&\rPID|9\x0b\x1c^Anna\nMaria"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    store = Records(f"sqlite:///{tmp_path_factory.mktemp('records') / 'overread.db'}")
    migrate(store)
    yield store
    store.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return identities(tmp_path_factory.mktemp("certificates"), "server")["server"]


def a_report(records: Records, **study: str) -> ReportContent:
    with records.writing() as connection:
        rows.add_analysed_study(connection, **study)
        uid = connection.exec_driver_sql(NEWEST_RESULT).scalar_one()
        return report_content.of_result(connection, str(uid))


def receiver_at(port: int, **more: object) -> Destination:
    return Destination.model_validate(
        {"name": "ris", "mllp_host": "127.0.0.1", "port": port, **more}
    )


def test_a_report_arrives_as_a_message_that_another_parser_reads(records: Records) -> None:
    content = a_report(records, patient_name="Tester^Ann^M", accession_number="A1")
    place = {"receiving_application": "RIS", "receiving_facility": "HOSPITAL"}
    with MllpReceiver() as receiver:
        mllp.send(receiver_at(receiver.port, **place), content, at=rows.NOW)
    (message,) = receiver.received
    assert str(message.segment("MSH")[9]) == "ORU^R01^ORU_R01"
    assert [str(message.segment("MSH")[n]) for n in (3, 5, 6, 12, 18)] == [
        "OVERREAD", "RIS", "HOSPITAL", "2.5.1", "UNICODE UTF-8",
    ]  # fmt: skip
    pid = message.segment("PID")
    assert str(pid[3][0][0]) == content.patient_id
    assert [str(pid[5][0][n]) for n in (0, 1, 2)] == ["Tester", "Ann", "M"]
    assert str(message.segment("OBR")[3]) == "A1"
    assert str(message.segment("OBR")[25]) == "P"
    observations = message.segments("OBX")
    assert [int(str(one[1])) for one in observations] == list(range(1, len(observations) + 1))
    first = observations[0]
    assert str(first[3]).startswith("113014^DICOM Study^DCM")
    assert content.study_instance_uid in str(first[5])
    nodules = [one for one in observations if "27925004^Nodule^SCT" in str(one[5])]
    assert len(nodules) == 2  # the third is absent at the operating point
    certainties = [str(one[5]) for one in observations if str(one[3]).startswith("111012")]
    assert certainties == ["93.0", "31.0"]
    sizes = [str(one[6]) for one in observations if str(one[3]).startswith("103339001")]
    assert sizes
    assert all(unit.startswith("mm^") for unit in sizes)
    assert "not for clinical use" in str(message.segment("NTE")[3])


def test_text_that_looks_like_hl7_stays_text(records: Records) -> None:
    content = a_report(records, patient_name=HOSTILE, patient_id="1|2^3", accession_number="\\E\\")
    with MllpReceiver() as receiver:
        mllp.send(receiver_at(receiver.port), content, at=rows.NOW)
    (message,) = receiver.received
    assert len(message.segments("PID")) == 1
    pid = message.segment("PID")
    assert message.unescape(str(pid[3][0][0])) == "1|2^3"
    family = message.unescape(str(pid[5][0][0]))
    assert family.startswith("O'Brien|")
    assert str(pid[8]) == "F"
    assert message.unescape(str(message.segment("OBR")[3])) == "\\E\\"


def test_a_study_that_was_not_analysed_says_so(records: Records) -> None:
    with records.writing() as connection:
        study_id = rows.add_study(connection)
        series_id = rows.add_series(connection, study_id)
        job_id = rows.add_job(
            connection,
            study_id,
            series_id,
            state=JobState.NOT_APPLICABLE,
            reason="SLICE_GAP",
            message="a gap of 12.5 mm after slice 84",
        )
        rows.add_result(connection, study_id, job_id)
        uid = connection.exec_driver_sql(NEWEST_RESULT).scalar_one()
        content = report_content.of_result(connection, str(uid))
    with MllpReceiver() as receiver:
        mllp.send(receiver_at(receiver.port), content, at=rows.NOW)
    (message,) = receiver.received
    assert str(message.segment("OBR")[25]) == "X"
    notes = [str(segment[3]) for segment in message.segments("NTE")]
    assert any("gap of 12.5 mm" in note for note in notes)


def test_the_same_report_has_the_same_control_id_each_time(records: Records) -> None:
    content = a_report(records)
    with MllpReceiver() as receiver:
        for _ in range(2):
            mllp.send(receiver_at(receiver.port), content, at=rows.NOW)
    first, second = (str(message.segment("MSH")[10]) for message in receiver.received)
    assert first == second
    assert len(first) == 20


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        ("AE", PeerUnavailable, "ACK_AE"),
        ("AR", PeerRefused, "ACK_AR"),
        ("other", PeerUnavailable, "NO_ANSWER"),
        ("silence", PeerUnavailable, "NO_ANSWER"),
        ("XX", PeerUnavailable, "NO_ANSWER"),
    ],
)
def test_what_the_receiver_answers_decides_whether_it_is_tried_again(
    records: Records, answer: str, error: type[Exception], reason: str
) -> None:
    content = a_report(records)
    with MllpReceiver(answer) as receiver, pytest.raises(error, match=reason):
        mllp.send(receiver_at(receiver.port), content, at=rows.NOW)


def test_a_receiver_that_is_away_is_tried_again(records: Records) -> None:
    with pytest.raises(PeerUnavailable, match="CONNECT"):
        mllp.send(receiver_at(free_port()), a_report(records), at=rows.NOW)


def test_a_message_goes_by_tls_to_a_receiver_that_is_trusted(
    records: Records, server: Identity
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    content = a_report(records)
    with MllpReceiver(tls=context) as receiver:
        trusting = {"enabled": True, "ca": server.authority}
        mllp.send(receiver_at(receiver.port, tls=trusting), content, at=rows.NOW)
        with pytest.raises(PeerUnavailable, match="CONNECT"):
            mllp.send(receiver_at(receiver.port, tls={"enabled": True}), content, at=rows.NOW)
    assert len(receiver.received) == 1
