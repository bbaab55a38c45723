"""Everything that reads bytes or text of strangers, as functions that a fuzzer can call.

Each may refuse by one of the product's own errors; whatever else it raises is a bug.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import parse_qsl

from service.core.codestream import codestream_of
from service.core.elements import Encoding, walk
from service.core.multipart import MultipartReader, media_type
from service.core.packages import read_package
from service.core.part10 import file_meta, header_only, read_file_meta
from service.core.received import read_instance
from service.core.settings import Condition
from service.core.text import decoded, encodings_of
from service.dicomweb.accept import accepted
from service.dicomweb.qido import parse
from service.intake.commitment import read_answer, read_request
from service.intake.dimse import decode_command
from service.intake.pdus import decode_request
from service.records.dicomweb import Level
from service.studies.routing import attributes, holds
from workers.inference.graph import read_graph
from workers.volume.encapsulation import split_frames

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
ENCAPSULATED = "1.2.840.10008.1.2.4.90"


def header(data: bytes) -> None:
    """Read an instance's header under every kind of transfer syntax."""
    for syntax in (EXPLICIT, IMPLICIT, BIG_ENDIAN, ENCAPSULATED):
        encoding = Encoding.of(syntax)
        read_instance(data, encoding, walk(data, encoding), transfer_syntax_uid=syntax)


def multipart(data: bytes) -> None:
    """Read a body in small pieces."""
    reader = MultipartReader("boundary")
    for at in range(0, len(data), 7):
        list(reader.feed(data[at : at + 7]))
    reader.finish()


def manifest(data: bytes) -> None:
    """Read a model package whose manifest these bytes are."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "manifest.toml").write_bytes(data)
        read_package(Path(folder))


def rules(data: bytes) -> None:
    """Hold conditions against the header of an instance that was taken in."""
    meta = file_meta(
        sop_class_uid="1.2.3", sop_instance_uid="1.2.3.4", transfer_syntax_uid=EXPLICIT
    )
    kept = header_only(data, walk(data, Encoding()), meta=meta)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's on odd values, which are the sender's
        lookup = attributes(kept, "MODALITY")
        for keyword in ("Modality", "PatientName", "StudyDate", "ImageType", "Rows"):
            for operator in ("equals", "contains", "in", "matches", "exists"):
                holds(Condition(keyword=keyword, operator=operator, value="[C*T?"), lookup(keyword))


def qido(data: bytes) -> None:
    """Read a query string at every level."""
    parameters = parse_qsl(data.decode("latin_1"), keep_blank_values=True)
    for level in Level:
        parse(level, parameters, {})


def commitment(data: bytes) -> None:
    """Read a commitment report, then a request."""
    read_answer(data, IMPLICIT)
    read_request(data, IMPLICIT)


def text(data: bytes) -> None:
    """Decode text by a character set that the same bytes name."""
    decoded(data, encodings_of(data[:20]))
    decoded(data, encodings_of(b"\\ISO 2022 IR 87"), person_name=True)


def http_headers(data: bytes) -> None:
    """Read the headers by which content is negotiated."""
    value = data.decode("latin_1")
    accepted(value)
    media_type(value)


READERS: Mapping[str, Callable[[bytes], object]] = {
    "association_request": decode_request,
    "command": decode_command,
    "commitment": commitment,
    "file_meta": read_file_meta,
    "header": header,
    "http_headers": http_headers,
    "manifest": manifest,
    "multipart": multipart,
    "network": read_graph,
    "qido": qido,
    "rules": rules,
    "text": text,
    "codestream": codestream_of,
    "fragments": lambda data: split_frames(data, 2),
}
