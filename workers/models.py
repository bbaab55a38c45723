"""From a package's folder to a model that analyses images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service.core.errors import ContractViolation, InvalidModel
from service.core.findings import Analysis
from service.core.manifest import Manifest
from service.core.packages import ModelPackage
from workers.inference import device as devices
from workers.inference.probe import probe_networks
from workers.inference.session import Session, open_session
from workers.kinds.classification import Classification
from workers.kinds.contract import Context, Identify, unheard
from workers.kinds.detection import Detection
from workers.kinds.segmentation import Segmentation
from workers.volume.plan import VolumeRules
from workers.volume.radiograph import Radiograph
from workers.volume.series import Volume


@dataclass(frozen=True)
class LoadedModel:
    """A package whose networks are open on a device; `analyse` may be called again and again."""

    package: ModelPackage
    device: str
    sessions: Mapping[str, Session]

    @property
    def reads_volumes(self) -> bool:
        """Whether the model takes volumes; otherwise it takes radiographs, one at a time."""
        return self.package.kind != "classification"

    def analyse(
        self,
        image: Volume | Radiograph,
        *,
        identify: Identify,
        operating_point: str | None = None,
        progress: Callable[[str, float], None] = unheard,
    ) -> Analysis:
        """Return what the model says about an image.

        Parameters
        ----------
        image
            A volume or a radiograph, by `reads_volumes`.
        identify
            Gives (finding id, tracking UID) for a rank, 0 being the most probable.
        operating_point
            One of the manifest's, by default its first.
        progress
            Hears a stage and the part of it that is done.

        Raises
        ------
        UnsuitableSeries
            When a guard refuses the image.
        ContractViolation
            When a network breaks its promise.
        InvalidModel
            ``OPERATING_POINT`` when there is none of that name.
        """
        context = Context(
            manifest=self.package.manifest,
            networks=self.sessions,
            operating_point=self.package.manifest.operating_point(operating_point),
            identify=identify,
            progress=progress,
        )
        if isinstance(image, Radiograph):
            if self.reads_volumes:
                raise InvalidModel("IMAGE", f"{self.package.name} takes volumes")
            return Classification().analyse(image, context)
        if not self.reads_volumes:
            raise InvalidModel("IMAGE", f"{self.package.name} takes radiographs")
        kind = Detection() if self.package.kind == "detection" else Segmentation()
        return kind.analyse(image, context)


def choose_device(wanted: str) -> str:
    """Return the name of the device that a setting leads to: ``cpu`` or ``cuda:N``.

    Raises
    ------
    InvalidSettings
        ``DEVICE`` when CUDA is asked for by name and does not start.
    """
    return devices.choose_device(wanted).name


def load_model(
    package: ModelPackage, *, device: str, threads: int = 0, probe: bool = True
) -> LoadedModel:
    """Open and warm up the networks of a package.

    With `probe` they are loaded in a child process with limits first.

    Raises
    ------
    InvalidModel
        When a digest differs, a network is beyond its limits, does not fit the manifest or fails
        to run; the message is one line with package and field.
    """
    networks = package.manifest.networks
    if probe:
        probe_networks(package.folder, networks)
    chosen = devices.choose_device(device)
    sessions: dict[str, Session] = {
        network.role: open_session(package.folder, network, chosen, threads=threads)
        for network in networks
    }
    for session in sessions.values():
        warm_up(session)
    return LoadedModel(package, chosen.name, sessions)


def warm_up(session: Session) -> None:
    """Run a network once; one that cannot run on zeros cannot be trusted with a study.

    Raises
    ------
    InvalidModel
        With the reason of the network's broken promise.
    """
    try:
        session.warm_up()
    except ContractViolation as error:
        raise InvalidModel(error.reason, error.message) from error


def volume_rules(manifest: Manifest) -> VolumeRules:
    """Return what a package asks of a series beyond being readable."""
    applicability = manifest.applicability
    hounsfield = applicability.modalities == ("CT",)
    return VolumeRules(
        unit="HU" if hounsfield else "",
        minimum_slices=max(2, int(applicability.slices.minimum or 2)),
        allow_resampling=applicability.allow_resampling,
    )
