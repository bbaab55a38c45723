"""Every role in one supervised process tree: `overread serve`."""

import gc
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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


@dataclass(frozen=True)
class WarmRoles:
    """How roles run in forks of this process: what to import first, and each role's run."""

    preload: Callable[[], None]
    run: Callable[[str], int]


def serve(
    settings: Settings, *, stop: threading.Event | None = None, warm: WarmRoles | None = None
) -> int:
    """Run every role until a signal or `stop`; return the exit code.

    With `warm` roles are forks that need no imports; otherwise each is an interpreter of its own.

    Raises
    ------
    InvalidSettings, InvalidModel
        Before anything is started, when settings, schema or a model package are wrong.
    """
    stop = stop or stop_on_signals()
    installed_packages(settings.models.dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    redis = ProcessTree([] if settings.redis.url else [embedded_redis(settings)])
    roles = ProcessTree([_role(role, warm) for role in ROLES])
    everything = ProcessTree([*redis.children, *roles.children])
    redis.start()
    try:
        records = Records(settings.database_url)
        migrate(records)
        records.close()
        if warm is not None:
            # Its imports and networks take longest, and share little with the others.
            roles.start(only="worker")
            warm.preload()
            gc.collect()
            gc.freeze()  # what the roles share stays shared
        if not settings.redis.url:  # one that is not ours may come up later; studies are taken in
            wait_for_redis(settings.redis_url)
        roles.start()
        log.info("serving", host=settings.http.host, port=settings.http.port)
        return everything.watch(stop)
    finally:
        roles.stop(within_s=_STOP_ROLES_WITHIN_S)
        redis.stop(within_s=_STOP_REDIS_WITHIN_S)
        remove_socket_folder(settings)


def _role(role: str, warm: WarmRoles | None) -> Child:
    target = None if warm is None else partial(warm.run, role)
    return Child(role, role_command(role), target=target)


def role_command(role: str) -> list[str]:
    """Return the command line of a role, in this interpreter; settings travel by environment."""
    return [sys.executable, "-m", "service.cli", role]
