"""The workers' commands, which join `overread` by an entry point."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.core.errors import InvalidModel, InvalidRequest, OverreadError
from service.core.packages import ModelPackage, installed_packages
from service.core.settings import Settings
from service.core.signals import stop_on_signals
from service.core.startup import DONE, FAILED, settings_for

app = typer.Typer()
models_app = typer.Typer(no_args_is_help=True, help="Model packages and whether to trust them.")
destinations_app = typer.Typer(no_args_is_help=True, help="The PACS that get results.")
app.add_typer(models_app, name="models")
app.add_typer(destinations_app, name="destinations")


def preload() -> None:
    """Import what the deliverer needs, before it is forked.

    Not what the worker needs: onnxruntime starts a thread, which no fork would have.
    """
    import_module("workers.delivery_worker")


@app.command()
def worker(
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda:0, ... or auto; overrides jobs.device.")
    ] = None,
) -> None:
    """Run models on one device."""
    settings = settings_for("worker")
    from workers.gpu_worker import run  # noqa: PLC0415  commands import what they alone need

    run(settings, device or settings.jobs.device, stop_on_signals())


@app.command()
def deliverer() -> None:
    """Send results to their destinations."""
    settings = settings_for("deliverer")
    from workers.delivery_worker import run  # noqa: PLC0415

    run(settings, stop_on_signals())


@app.command()
def replay(job_id: Annotated[str, typer.Argument(help="The job's id, as REST shows it.")]) -> None:
    """Run a finished job again and report whether its findings are identical."""
    settings = settings_for("replay")
    from workers.replay import replay as repeat  # noqa: PLC0415

    done = repeat(settings, job_id)
    if done.is_identical:
        typer.echo(f"identical: {len(done.repeated)} findings")
        return
    for line in done.differences():
        typer.echo(line)
    raise typer.Exit(FAILED)


@models_app.command("list")
def list_models() -> None:
    """List the installed packages with version and digest."""
    settings = settings_for("models")
    for package in installed_packages(settings.models.dir):
        chosen = settings.models.of(package.name)
        state = "enabled" if chosen.enabled else "disabled"
        typer.echo(
            f"{package.name} {package.version} {state} task={package.task} "
            f"kind={package.kind} sha256={package.sha256}"
        )


@models_app.command("check")
def check_models(
    name: Annotated[str | None, typer.Argument(help="One package; by default all.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0, ... or auto.")] = None,
) -> None:
    """Verify digests, load with limits, warm up and run the golden cases."""
    settings = settings_for("models")
    from workers.model_check import check_package  # noqa: PLC0415
    from workers.models import choose_device  # noqa: PLC0415

    chosen = choose_device(device or settings.jobs.device)
    failed = False
    for package in _named(settings, name):
        try:
            with _shown(f"checking {package.name}"):
                checked = check_package(package, device=chosen, threads=settings.jobs.threads)
        except InvalidModel as error:
            failed = True
            typer.echo(f"{package.name}: {error}", err=True)
        else:
            typer.echo(
                f"{checked.name} {checked.version} ok on {checked.device}: "
                f"{len(checked.networks)} networks loaded in {checked.load_s:.1f} s, "
                f"{len(checked.golden)} golden cases in {checked.golden_s:.1f} s"
            )
    raise typer.Exit(FAILED if failed else DONE)


@models_app.command("evaluate")
def evaluate_model(
    name: Annotated[str, typer.Argument(help="The package.")],
    data: Annotated[Path, typer.Option(help="Folder of studies with SEG, SR, RTSTRUCT or CSV.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report, one HTML file.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0, ... or auto.")] = None,
    operating_point: Annotated[
        str | None, typer.Option(help="One of the package's; by default its first.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="No more than this many series or radiographs.")
    ] = None,
) -> None:
    """Measure a package on studies with a reference."""
    settings = settings_for("models")
    from workers.evaluation.command import Outputs, run_evaluation  # noqa: PLC0415
    from workers.models import choose_device  # noqa: PLC0415

    code = run_evaluation(
        _named(settings, name)[0],
        data,
        Outputs(json_file, report),
        device=choose_device(device or settings.jobs.device),
        threads=settings.jobs.threads,
        operating_point=operating_point,
        limit=limit,
    )
    raise typer.Exit(code)


@models_app.command("import")
def import_model(  # noqa: PLR0913, PLR0917  one parameter an option
    source: Annotated[
        Path, typer.Argument(help="ONNX file, MONAI bundle, nnU-Net or torchxrayvision folder.")
    ],
    name: Annotated[str | None, typer.Option(help="What the package is to be called.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="detection, classification or segmentation.")
    ] = None,
    modality: Annotated[str | None, typer.Option(help="CT, MR, DX, ...")] = None,
    spacing: Annotated[str | None, typer.Option(help="z,y,x in mm; 0 keeps the scan's.")] = None,
    axes: Annotated[str | None, typer.Option(help="Where array axes run to, e.g. SPL.")] = None,
    intensity: Annotated[
        str | None, typer.Option(help="LOWER,UPPER, or range, format, percentile:LO,HI, ...")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Names of the outputs, in order.")] = None,
    answers: Annotated[
        Path | None, typer.Option(help="TOML with any sections of the manifest.")
    ] = None,
    configuration: Annotated[str | None, typer.Option(help="nnU-Net: 3d_fullres, 2d.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder of packages; default models.dir.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace one of that name.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0, ... or auto.")] = None,
) -> None:
    """Turn a foreign network into a package and check it."""
    settings = settings_for("models")
    from workers.importing.answers import Flags  # noqa: PLC0415
    from workers.importing.command import import_package  # noqa: PLC0415
    from workers.models import choose_device  # noqa: PLC0415

    code = import_package(
        source,
        Flags(name, kind, modality, spacing, axes, intensity, classes),
        to or settings.models.dir,
        answers=answers,
        configuration=configuration,
        device=choose_device(device or settings.jobs.device),
        replace=replace,
    )
    raise typer.Exit(code)


@destinations_app.command("check")
def check_destinations(
    name: Annotated[str | None, typer.Argument(help="One destination; by default all.")] = None,
) -> None:
    """Ask each destination for an answer: C-ECHO, or one study over HTTP."""
    settings = settings_for("destinations")
    from workers.delivery.reach import reach  # noqa: PLC0415

    known = [destination.name for destination in settings.destinations]
    if name is not None and name not in known:
        raise InvalidRequest("DESTINATION_UNKNOWN", f"found {name!r}; allowed: {known}")
    failed = False
    for destination in settings.destinations:
        if name not in (None, destination.name):
            continue
        try:
            answer = reach(destination, calling_ae_title=settings.dicom.ae_title)
        except OverreadError as error:
            failed = True
            typer.echo(f"{destination.name}: {error}", err=True)
        else:
            typer.echo(f"{destination.name}: {answer}")
    raise typer.Exit(FAILED if failed else DONE)


def _named(settings: Settings, name: str | None) -> list[ModelPackage]:
    packages = installed_packages(settings.models.dir)
    chosen = [package for package in packages if name in (None, package.name)]
    if not chosen:
        known = ", ".join(package.name for package in packages) or "none installed"
        raise InvalidRequest("MODEL_UNKNOWN", f"found {name!r}; allowed: {known}")
    return chosen


@contextmanager
def _shown(what: str) -> Iterator[None]:
    """Show that something long is going on, where there is a terminal to show it on."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield
