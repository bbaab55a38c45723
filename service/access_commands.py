"""Commands about access: API keys, links to one study, the audit trail."""

from typing import Annotated

import typer

from service.core.access import Role
from service.core.startup import DONE, FAILED, settings_for

keys = typer.Typer(help="API keys: who may ask over HTTP.", no_args_is_help=True)
links = typer.Typer(help="Links that show one study.", no_args_is_help=True)
trail = typer.Typer(help="The audit trail.", no_args_is_help=True)


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.READER,
    days: Annotated[int | None, typer.Option(min=1, help="Expires after so many days.")] = None,
) -> None:
    """Make a key and print it, this once."""
    settings = settings_for("keys")
    from service import access_work  # noqa: PLC0415  commands import what they alone need

    typer.echo(access_work.add_key(settings, name, role, days=days))


@keys.command("list")
def list_keys() -> None:
    """Show the keys, without what opens."""
    settings = settings_for("keys")
    from service import access_work  # noqa: PLC0415

    access_work.show_keys(settings)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="Its id, as `list` shows it.")]) -> None:
    """Let a key open nothing any more; running processes notice within seconds."""
    settings = settings_for("keys")
    from service import access_work  # noqa: PLC0415

    key = access_work.revoke_key(settings, key_id)
    typer.echo(f"revoked {key.id} ({key.name})")


@links.command("rotate")
def rotate_links() -> None:
    """Make every link that was given out worthless."""
    settings = settings_for("links")
    from service import access_work  # noqa: PLC0415

    access_work.rotate_links(settings)
    typer.echo("every link given out before is worthless")


@trail.command("verify")
def verify_trail() -> None:
    """Check the chain of digests; exit 1 when an entry was changed or taken out."""
    settings = settings_for("audit")
    from service import access_work  # noqa: PLC0415

    found = access_work.check_trail(settings)
    if found.intact:
        typer.echo(f"{found.entries} entries, intact; newest {found.newest_sha256 or '-'}")
        raise typer.Exit(DONE)
    typer.echo(f"{found.entries} entries; the chain breaks at entry {found.broken_at_id}")
    raise typer.Exit(FAILED)
