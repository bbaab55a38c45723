"""What every command does first: read the settings, set up the logs; and how commands end."""

import sys
from typing import Final

from service.core.logs import configure_logs
from service.core.settings import Settings, load_settings

DONE: Final = 0  # the work was done
FAILED: Final = 1  # the work failed
WRONG: Final = 2  # the command or the settings are wrong


def settings_for(role: str) -> Settings:
    """Load the settings and set up this process's logs.

    Raises
    ------
    InvalidSettings
        As `load_settings` does.
    """
    settings = load_settings()
    form = settings.log.format
    if form == "auto":
        form = "console" if sys.stderr.isatty() else "json"
    configure_logs(role=role, form=form, level=settings.log.level)
    return settings
