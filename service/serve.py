"""Every role in one supervised process tree: `overread serve`."""

import sys
import threading

from service.core.logs import get_logger
from service.core.packages import installed_packages
from service.core.settings import Settings
from service.core.signals import stop_on_signals
from service.embedded_redis import embedded_redis, remove_socket_folder, wait_for_redis
from service.processes import Child, ProcessTree
from service.records.database import Records
from service.records.migrations import migrate

ROLES = ("receiver", "scheduler", "worker", "deliverer", "api")
# Together they stay below the 20 s in which `serve` promises to be gone.
_STOP_ROLES_WITHIN_S = 16.0
_STOP_REDIS_WITHIN_S = 3.0

log = get_logger()


def serve(settings: Settings, *, stop: threading.Event | None = None) -> int:
    """Run every role until a signal or `stop`; return the exit code.

    Raises
    ------
    InvalidSettings, InvalidModel
        Before anything is started, when settings, schema or a model package are wrong.
    """
    stop = stop or stop_on_signals()
    installed_packages(settings.models.dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    records = Records(settings.database_url)
    migrate(records)
    records.close()
    redis = ProcessTree([] if settings.redis.url else [embedded_redis(settings)])
    roles = ProcessTree([Child(role, role_command(role)) for role in ROLES])
    everything = ProcessTree([*redis.children, *roles.children])
    redis.start()
    try:
        if not settings.redis.url:  # one that is not ours may come up later; studies are taken in
            wait_for_redis(settings.redis_url)
        roles.start()
        log.info("serving", host=settings.http.host, port=settings.http.port)
        return everything.watch(stop)
    finally:
        roles.stop(within_s=_STOP_ROLES_WITHIN_S)
        redis.stop(within_s=_STOP_REDIS_WITHIN_S)
        remove_socket_folder(settings)


def role_command(role: str) -> list[str]:
    """Return the command line of a role, in this interpreter; settings travel by environment."""
    return [sys.executable, "-m", "service.cli", role]
