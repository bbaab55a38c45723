"""The machine's Chromium, driven by playwright-core in Node.js."""

import json
from pathlib import Path
from subprocess import DEVNULL, PIPE, TimeoutExpired
from subprocess import Popen as Child
from typing import Any

from tests.peers.process import dying_with_parent

SCRIPTS = Path(__file__).parent


class Browser:
    """Runs scripts that open a page by `browser.mjs` and return what they saw as JSON."""

    def __init__(self, *, node: Path, chromium: Path, playwright: Path) -> None:
        self._node = node
        self._peers = {"chromium": str(chromium), "playwright": str(playwright)}

    def run(self, script: Path, *, limit_s: float = 120, **given: Any) -> Any:
        """Run a script with what it is given and return what it found.

        A script that fails or takes too long raises `AssertionError` with the console lines, page
        errors and failed requests that it saw.
        """
        argument = json.dumps({**given, "peers": self._peers})
        command = dying_with_parent([self._node, script, argument])
        with Child(command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, text=True) as child:
            try:
                found, seen = child.communicate(timeout=limit_s)
            except TimeoutExpired:
                child.kill()
                _, seen = child.communicate()
                raise AssertionError(f"{script.name} not done in {limit_s} s\n{seen}") from None
        assert child.returncode == 0, f"{script.name} ended with {child.returncode}\n{seen}"
        return json.loads(found)

    def render(self, url: str, *, picture: Path | None = None) -> Any:
        """Open a page; return its `title`, visible `text` and script `errors`."""
        picture_path = None if picture is None else str(picture)
        return self.run(SCRIPTS / "render.mjs", url=url, picture=picture_path)
