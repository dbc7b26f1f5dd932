"""The editor's JavaScript against its own type comments: TypeScript reads them, builds nothing."""

import subprocess

from support.browser import PACKAGES, WEB, need


def test_the_types_of_the_editors_scripts_hold():
    node = need("typescript")
    compiler = PACKAGES / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        [node, compiler, "--project", WEB / "tsconfig.json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
