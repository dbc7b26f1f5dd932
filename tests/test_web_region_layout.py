"""The editor's JavaScript: its own tests in Node, and what it shares with the Python side."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mix_of_show.mos_core.regions import layout_json, mask_runs
from mix_of_show.mos_core.regions.layout_json import parse_layout
from mix_of_show.mos_core.regions.picture import PALETTE

CLONE = Path(__file__).absolute().parents[1]
EDITOR = CLONE / "web" / "region_layout"
SCRIPTS = sorted(CLONE.glob("web/**/*.js"))
NODE = shutil.which("node")
NODE_NEEDED = (20, 19)  # knows modules by their text

EDIT_A_LAYOUT = """
import { blankMask, painted } from "EDITOR/masks.js";
import { LayoutState } from "EDITOR/state.js";
const state = new LayoutState([768, 512]);
state.preset("columns3");
state.select(1);
state.update({ prompt: "a <zebra>", negative: "\\u00e9\\"}", weight: 0.25, concept: "zebra" });
state.update({ x: 1000 });
state.setDepth("front");
state.setMask(painted(blankMask([768, 512]), [768, 512], [100, 100], [330, 260], 40, true), -1);
console.log(state.save());
"""


def node(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess:
    if NODE is None:
        pytest.skip("there is no Node.js")
    version = subprocess.run([NODE, "--version"], capture_output=True, text=True).stdout
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < NODE_NEEDED:
        pytest.skip(f"Node.js {version.strip()} is too old")
    return subprocess.run(
        [NODE, *arguments], input=text, capture_output=True, encoding="utf-8", cwd=CLONE
    )


def constant(file: str, name: str) -> str:
    """The value of a constant of the editor, as it is written."""
    text = (EDITOR / file).read_text(encoding="utf-8")
    return re.search(rf"{name} = (.+?);", text, re.DOTALL)[1]


def test_the_editors_own_tests_pass():
    done = node("--test", *map(str, sorted(CLONE.glob("tests/web/*.test.mjs"))))
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_a_module_that_can_be_read(file):
    text = file.read_text(encoding="utf-8")
    done = node("--check", "--input-type=module", text=text)
    assert done.returncode == 0, done.stderr


def test_what_the_editor_saves_is_a_layout_for_the_node():
    script = EDIT_A_LAYOUT.replace("EDITOR", EDITOR.as_uri())
    done = node("--input-type=module", text=script)
    assert done.returncode == 0, done.stderr
    regions = parse_layout(done.stdout, 768, 512)
    assert regions.notes == ()
    assert [region.prompt for region in regions.regions] == ["", "a <zebra>", "", ""]
    zebra, brushed = regions.regions[1], regions.regions[3]
    assert (zebra.negative, zebra.weight, zebra.concept) == ('é"}', 0.25, "zebra")
    assert (zebra.box.x0, zebra.box.x1, zebra.color) == (512 / 768, 1.0, 1)
    assert (zebra.depth, brushed.depth) == (1, None)
    assert brushed.mask.shape == (128, 192)
    assert brushed.mask[50, 50] == 1
    assert brushed.mask.mean() == pytest.approx((280.2 * 80 + 5027) / (768 * 512), rel=0.01)


def test_the_editor_and_the_node_share_colours_cells_and_version():
    assert json.loads(constant("palette.js", "PALETTE")) == list(PALETTE)
    assert int(constant("geometry.js", "FINEST_CELL")) == layout_json.FINEST_CELL
    assert int(constant("layout_json.js", "VERSION")) == layout_json.VERSION
    assert int(constant("masks.js", "CELL")) == mask_runs.CELL
    assert int(constant("masks.js", "LONGEST")) == mask_runs.LONGEST
