"""A real Orthanc as the PACS, with the configuration and the auto-routing that `docker/` ships."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.filebase import DicomBytesIO

from tests.peers.ports import accepts_connections, free_port
from tests.peers.process import Process, dying_with_parent, wait_for

SHIPPED = Path(__file__).parents[2] / "docker"
STABLE_AGE_S = 2


class Orthanc:
    """An Orthanc with an empty archive, its DICOMweb plug-in, and series sent on when stable.

    ``overread_port`` is where its modality "overread" (AE title OVERREAD) is expected to listen.
    Identifiers in answers are Orthanc's own unless a name says UID.
    """

    ae_title = "ORTHANC"

    def __init__(
        self,
        program: Path,
        plugin: Path,
        *,
        folder: Path,
        overread_port: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.dicom_port = free_port()
        self.http_port = free_port()
        self.overread_port = overread_port or free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.dicomweb_url = f"{self.url}/dicom-web"
        self._program = program
        self._folder = folder
        self._client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        folder.mkdir(parents=True, exist_ok=True)
        self._write_configuration(plugin, settings or {})
        self.process = self.start()

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self._client.close()
        self.process.kill()  # its archive is thrown away; a clean stop takes seconds

    def start(self) -> Process:
        """Start it on the archive that is there and wait until both its ports answer."""
        self.process = Process(
            "Orthanc",
            dying_with_parent([self._program, self._folder / "orthanc.json"]),
            log=self._folder / "orthanc.log",
            cwd=self._folder,
        )
        self.process.wait_until(
            lambda: accepts_connections(self.http_port) and accepts_connections(self.dicom_port)
        )
        return self.process

    def get(self, path: str) -> Any:
        """GET a path of the REST interface and return its JSON."""
        return self._client.get(path).raise_for_status().json()

    def post(self, path: str, body: object) -> Any:
        """POST JSON to a path of the REST interface and return the JSON it answers."""
        return self._client.post(path, json=body).raise_for_status().json()

    def upload(self, path: Path) -> str:
        """Put one file into the archive as a modality would and return the instance."""
        answer = self._client.post("/instances", content=path.read_bytes())
        return str(answer.raise_for_status().json()["ID"])

    def answers_echo(self, modality: str = "overread") -> bool:
        """Return whether a modality answers Orthanc's C-ECHO."""
        return self._client.post(f"/modalities/{modality}/echo", json={}).status_code == 200

    def add_modality(self, name: str, ae_title: str, port: int) -> None:
        """Make a peer on loopback known by name."""
        target = {"AET": ae_title, "Host": "127.0.0.1", "Port": port}
        self._client.put(f"/modalities/{name}", json=target).raise_for_status()

    def send(self, resource: str, modality: str = "overread") -> Any:
        """C-STORE a series or study to a modality and return when it is done."""
        return self.post(f"/modalities/{modality}/store", {"Resources": [resource]})

    def job_states(self) -> list[str]:
        """Return the states of its jobs (Pending, Running, Success, Failure, ...)."""
        return [str(job["State"]) for job in self.get("/jobs?expand")]

    def execute(self, lua: str) -> str:
        """Run Lua beside its scripts, where the setting ExecuteLuaEnabled allows it."""
        return self._client.post("/tools/execute-script", content=lua).raise_for_status().text

    def find(self, level: str, **query: str) -> list[str]:
        """Return what matches at a level (Study, Series, Instance) by DICOM keyword."""
        found = self.post("/tools/find", {"Level": level, "Query": query})
        return [str(item) for item in found]

    def instances(self, **query: str) -> list[str]:
        """Return the instances that match, by DICOM keyword: `instances(Modality="SR")`."""
        series = self.find("Series", **query)
        return [str(item) for one in series for item in self.get(f"/series/{one}")["Instances"]]

    def file(self, instance: str) -> bytes:
        """Return an instance's file as archived."""
        return self._client.get(f"/instances/{instance}/file").raise_for_status().content

    def read(self, instance: str) -> FileDataset:
        """Return an instance's data set."""
        return dcmread(DicomBytesIO(self.file(instance)))

    def delete(self, instance: str) -> None:
        """Remove an instance from the archive."""
        self._client.delete(f"/instances/{instance}").raise_for_status()

    def metadata(self, instance: str, name: str = "RemoteAET") -> str:
        """Return what Orthanc noted at receipt, by default who sent the instance."""
        answer = self._client.get(f"/instances/{instance}/metadata/{name}")
        return answer.text if answer.status_code == 200 else ""

    def wait_for_instances(
        self, count: int = 1, *, limit_s: float = 120, **query: str
    ) -> list[str]:
        """Return the matching instances as soon as there are that many."""
        wait_for(lambda: len(self.instances(**query)) >= count, limit_s=limit_s, pause_s=0.5)
        return self.instances(**query)

    def _write_configuration(self, plugin: Path, settings: dict[str, Any]) -> None:
        configuration = json.loads((SHIPPED / "orthanc.json").read_text())
        configuration |= {
            "StorageDirectory": str(self._folder / "archive"),
            "LuaScripts": [str(SHIPPED / "orthanc.lua")],
            "Plugins": [str(plugin)],
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomModalities": {"overread": ["OVERREAD", "127.0.0.1", self.overread_port]},
            "StableAge": STABLE_AGE_S,
        }
        (self._folder / "orthanc.json").write_text(json.dumps(configuration | settings, indent=2))
