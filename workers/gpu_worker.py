"""The process that runs models: one device, every network loaded and warm before the first job."""

import threading
from concurrent.futures import ThreadPoolExecutor

from service.core.clock import SystemClock
from service.core.logs import get_logger
from service.core.packages import installed_packages
from service.core.settings import Settings
from service.records.archive import Archive
from service.records.database import Records
from service.records.heartbeats import beating
from service.records.topics import Topic
from workers import infer_job
from workers.infer_job import InferContext
from workers.inference.probe import probe_networks
from workers.models import LoadedModel, choose_device, load_model
from workers.turns import JOBS_AT_ONCE
from workers.warm_worker import work

log = get_logger()


def run(settings: Settings, device: str, stop: threading.Event) -> None:
    """Take jobs until `stop` is set.

    Raises
    ------
    InvalidModel
        When a package is broken, altered or fails its golden case: a worker that cannot be
        trusted with every model takes no job at all.
    InvalidSettings
        When the device asked for is not there.
    """
    chosen = choose_device(device)
    models = load_models(settings, chosen)
    records = Records(settings.database_url, pool_size=settings.database.pool_size)
    archive = Archive(settings.data_dir, min_free_bytes=settings.retention.min_free_bytes)
    clock = SystemClock()
    infer_job.use(InferContext(settings, records, archive, clock, models, chosen))
    loaded = {name: model.package.version for name, model in models.items()}
    with beating(records, clock, "worker", device=chosen, detail={"models": loaded}):
        log.info("worker_started", device=chosen, count=len(models))
        threads = [
            threading.Thread(
                target=work,
                args=(Topic.INFER,),
                kwargs={"redis_url": settings.redis_url, "stop": stop},
                name=f"infer-{number}",
            )
            for number in range(JOBS_AT_ONCE)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    records.close()


def load_models(settings: Settings, device: str) -> dict[str, LoadedModel]:
    """Load and warm every enabled package; they are probed side by side before."""
    enabled = [
        package
        for package in installed_packages(settings.models.dir)
        if settings.models.of(package.name).enabled
    ]
    with ThreadPoolExecutor() as pool:
        probes = [
            pool.submit(probe_networks, package.folder, package.manifest.networks)
            for package in enabled
        ]
        for probe in probes:
            probe.result()
    return {
        package.name: load_model(package, device=device, threads=settings.jobs.threads, probe=False)
        for package in enabled
    }
