"""The `overread` command: every role and every tool, with exit codes 0, 1 and 2.

0: done. 1: the work failed. 2: the command or the settings are wrong, told in one line.
Commands of the workers join by an entry point, so that this side runs without them.
"""

import os
import sys
from importlib import import_module
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated

import typer

from service import access_commands
from service.core.errors import Disposition, OverreadError
from service.core.settings import CONFIG_VARIABLE
from service.core.signals import stop_on_signals
from service.core.startup import DONE, FAILED, WRONG, settings_for

viewer = typer.Typer(help="The OHIF viewer at /viewer.", no_args_is_help=True)
app = typer.Typer(
    name="overread",
    help="Computer-aided detection for radiology. For research until a site has validated it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"overread {version('overread')}")
        raise typer.Exit


@app.callback()
def _options(
    config: Annotated[
        Path | None, typer.Option("--config", help="The settings file, overread.toml.")
    ] = None,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if config is not None:
        # The environment carries the choice to the processes that this one starts.
        os.environ[CONFIG_VARIABLE] = str(config)


@app.command()
def serve() -> None:
    """Run every role in one supervised process tree."""
    settings = settings_for("serve")
    from service.serve import WarmRoles  # noqa: PLC0415  commands import what they alone need
    from service.serve import serve as run  # noqa: PLC0415

    raise typer.Exit(run(settings, warm=WarmRoles(_preload, _command)))


@app.command()
def receiver() -> None:
    """Run the DICOM listener: C-ECHO, C-STORE and storage commitment."""
    settings = settings_for("receiver")
    from service.intake.receiver import run  # noqa: PLC0415

    run(settings, stop_on_signals())


@app.command()
def scheduler() -> None:
    """Run the scheduler: completes studies, schedules jobs, rings the queue."""
    settings = settings_for("scheduler")
    from service.studies.scheduler import run  # noqa: PLC0415

    run(settings, stop_on_signals())


@app.command()
def api() -> None:
    """Run REST, DICOMweb, the worklist page and the viewer."""
    settings = settings_for("api")
    from service.api.server import run  # noqa: PLC0415

    run(settings, stop_on_signals())


@app.command()
def migrate() -> None:
    """Bring the database schema up to date."""
    settings = settings_for("migrate")
    from service.records.database import Records  # noqa: PLC0415
    from service.records.migrations import migrate as upgrade  # noqa: PLC0415

    records = Records(settings.database_url)
    typer.echo(f"schema {upgrade(records)}")
    records.close()


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders of them.")],
    to: Annotated[str, typer.Option("--to", help="The receiver, as AE@HOST:PORT.")],
    calling: Annotated[str, typer.Option(help="Our own AE title.")] = "OVERREAD-SEND",
) -> None:
    """Send files by C-STORE; exit 1 when any instance failed, naming it."""
    settings_for("send")
    from service.send import send_paths  # noqa: PLC0415

    raise typer.Exit(DONE if send_paths(paths, to, calling_ae_title=calling) else FAILED)


@app.command()
def doctor() -> None:
    """Show settings, peers, disk, devices and models on one screen; exit 1 when one is down."""
    settings = settings_for("doctor")
    from service.doctor import examine  # noqa: PLC0415

    raise typer.Exit(DONE if examine(settings) else FAILED)


@app.command()
def demo(
    exit_when_done: Annotated[
        bool, typer.Option("--exit", help="Stop when the three studies are done.")
    ] = False,
) -> None:
    """Run the whole system on embedded defaults with three synthetic studies."""
    from service.demo import demonstrate  # noqa: PLC0415

    raise typer.Exit(demonstrate(exit_when_done=exit_when_done))


@viewer.command()
def install(
    archive: Annotated[
        Path | None, typer.Option(help="The package's archive, where there is no internet.")
    ] = None,
) -> None:
    """Get OHIF from the npm registry, verified, for this data directory."""
    settings = settings_for("viewer")
    from rich.progress import Progress  # noqa: PLC0415

    from service.web.viewer import installed_in  # noqa: PLC0415
    from service.web.viewer_install import VERSION  # noqa: PLC0415
    from service.web.viewer_install import install as run  # noqa: PLC0415

    folder = installed_in(settings)
    typer.echo(f"OHIF {VERSION} into {folder}")
    with Progress(transient=True, disable=not sys.stdout.isatty()) as shown:
        task = shown.add_task("download", total=None)
        run(
            folder,
            archive=archive,
            progress=lambda done, whole: shown.update(task, completed=done, total=whole or None),
        )
    typer.echo("installed; restart `overread serve` or `overread api` to open it at /viewer")


app.add_typer(viewer, name="viewer")
app.add_typer(access_commands.keys, name="keys")
app.add_typer(access_commands.links, name="links")
app.add_typer(access_commands.trail, name="audit")


def _add_installed_commands() -> None:
    for entry in entry_points(group="overread.commands"):
        app.add_typer(entry.load())


def _preload() -> None:
    """Import what the roles need, of the service and of whoever joined by an entry point."""
    for name in ("service.intake.receiver", "service.studies.scheduler", "service.api.server"):
        import_module(name)
    for entry in entry_points(group="overread.commands"):
        preload = getattr(import_module(entry.module), "preload", None)
        if preload is not None:
            preload()


def _command(name: str) -> int:
    """Run one command in this process and return its exit code."""
    try:
        _run([name])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else WRONG
    return DONE


def main() -> None:
    """Run the command line and end the process with the right exit code."""
    _add_installed_commands()
    _run(_config_first(sys.argv[1:]))


def _config_first(arguments: list[str]) -> list[str]:
    """Return the arguments with `--config` before the command, wherever it was typed."""
    for at, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--config" or argument.startswith("--config="):
            end = at + (2 if argument == "--config" else 1)
            return [*arguments[at:end], *arguments[:at], *arguments[end:]]
    return arguments


def _run(arguments: list[str]) -> None:
    try:
        app(arguments)
    except OverreadError as error:
        typer.echo(f"overread: {error}", err=True)
        wrong = error.disposition in (Disposition.STOP, Disposition.REFUSE)
        sys.exit(WRONG if wrong else FAILED)


if __name__ == "__main__":
    main()
