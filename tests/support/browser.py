"""Scripts for a real browser (tests/web/*.mjs): run one, read the JSON that it prints.

MOS_BROWSER_ADDRESS names a server that runs already, for another version of the frontend;
MOS_SHOTS a folder for screenshots; MOS_BROWSER_NEEDED forbids to skip these tests.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lib import browser

WEB = Path(__file__).absolute().parents[1] / "web"
PACKAGES = browser.FOLDER / "node_modules"
RENDERERS = ["classic", "vue"]
EVERY_EDITOR = [*RENDERERS, "classic, newest editor", "vue, newest editor"]


def skip(reason: str) -> None:
    """Skips the test, or fails it where the browser is meant to be there."""
    (pytest.fail if os.environ.get("MOS_BROWSER_NEEDED") else pytest.skip)(reason)


def need(*packages: str) -> str:
    """Node.js's program. Skips the test without it or without one of the packages."""
    node = shutil.which("node")
    lacks = [] if node else ["Node.js"]
    lacks += [name for name in packages if not (PACKAGES / name).is_dir()]
    if lacks:
        skip(f"there is no {', no '.join(lacks)}; scripts/test --bring-browser installs it")
    assert node
    return node


def look(script: str, request, renderer: str) -> dict:
    """What a script of tests/web saw in one of EVERY_EDITOR, on the session's server."""
    node, chromium = need("playwright-core"), browser.find_chromium()
    if chromium is None:
        skip("there is no Chromium; scripts/test --bring-browser installs it")
    renderer, newest, _ = renderer.partition(", newest")
    if newest and browser.newest_editor() is None:
        pytest.skip("there is no newest editor; scripts/test --bring-browser installs it")
    server = "newest_server" if newest else "server"
    address = os.environ.get("MOS_BROWSER_ADDRESS") or request.getfixturevalue(server).address
    done = subprocess.run(
        [node, WEB / script, address, renderer, *os.environ.get("MOS_SHOTS", "").split()],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "CHROMIUM": chromium, "NODE_PATH": str(PACKAGES)},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
