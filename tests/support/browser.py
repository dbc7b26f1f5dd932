"""Scripts for a real browser (tests/web/*.mjs): run one, read the JSON that it prints.

They are skipped without Node.js, Chromium or playwright-core. scripts/test looks for the last one
in the clone's .node/, NODE_PATH may name another folder (`npm install playwright-core`).
MOS_BROWSER_ADDRESS names a server that runs already, for another version of the frontend;
MOS_SHOTS a folder for screenshots.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

CLONE = Path(__file__).absolute().parents[2]
WEB = CLONE / "tests" / "web"
PACKAGES = CLONE / ".node" / "node_modules"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
RENDERERS = ["classic", "vue"]
MISSING = 3  # exit status of a script without playwright-core


def look(script: str, request, renderer: str) -> dict:
    """What a script of tests/web saw in one renderer, on the session's server."""
    node = shutil.which("node")
    if not (node and CHROMIUM):
        pytest.skip("needs Node.js and Chromium")
    address = os.environ.get("MOS_BROWSER_ADDRESS") or request.getfixturevalue("server").address
    paths = [str(PACKAGES), *filter(None, [os.environ.get("NODE_PATH")])]
    done = subprocess.run(
        [node, WEB / script, address, renderer, *os.environ.get("MOS_SHOTS", "").split()],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "CHROMIUM": CHROMIUM, "NODE_PATH": os.pathsep.join(paths)},
        timeout=900,
    )
    if done.returncode == MISSING:
        pytest.skip("needs playwright-core")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
