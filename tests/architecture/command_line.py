"""The whole command line: the service's commands and those that the workers add."""

import typer.main
from typer.core import TyperGroup

from service.cli import app as service_app
from workers.cli import app as workers_app


def program() -> TyperGroup:
    """Return the group that holds every command of the program."""
    service, workers = (typer.main.get_command(app) for app in (service_app, workers_app))
    assert isinstance(service, TyperGroup)
    assert isinstance(workers, TyperGroup)
    service.commands = {**service.commands, **workers.commands}
    return service
