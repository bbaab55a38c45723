"""Where tests find data that does not travel with the repository."""

from pathlib import Path

import pytest

OUTSIDE = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared_data(relative: str) -> Path:
    """Return a file or folder of the collection beside the checkout, or skip the test.

    Every test that uses it has a twin which makes its own data, so a skip loses breadth and
    never the rule.
    """
    path = OUTSIDE / relative
    if not path.exists():
        pytest.skip(f"outside data is absent: ../shared/data/{relative}")
    return path
