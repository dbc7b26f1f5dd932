"""What the pack says of itself: help pages, locale, workflows and pages in step with the nodes.

After a change of a node's texts, `MOS_WRITE_LOCALE=1 scripts/test tests/test_docs.py` writes
locales/en/nodeDefs.json anew from the schemas.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

CLONE = Path(__file__).absolute().parents[1]
LOCALE = CLONE / "locales" / "en" / "nodeDefs.json"
HELP = CLONE / "web" / "docs"
WORKFLOWS = sorted((CLONE / "workflows").glob("*.json"))
PAGES = [
    *(CLONE / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG")),
    *sorted(HELP.glob("*.md")),
]

# The editor reads locale texts as vue-i18n messages, in which these characters have a meaning.
MESSAGE_SYNTAX = re.compile(r"[@{}|]")

# Folders of one person's or one machine's file system; places that packages are fetched from.
MACHINE_PATH = re.compile(r"(?<![\w.<>*])(?:/(?:home|root|Users|mnt|work|tmp/\w+)/\w|[A-Z]:\\\w)")
PACKAGE_INDEX = re.compile(r"-index-url[ =]|//[^\s/]+/(?:[\w.-]+/)*simple\b|registry[=:]\s*\S*//")


@pytest.fixture(scope="module")
def nodes():
    """Node id -> what the server tells of the node."""
    import support.with_comfyui  # noqa: F401
    from mix_of_show.nodes import NODES

    return {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in NODES}


def inputs_of(info: dict) -> dict[str, dict]:
    """Input id -> its options, in the editor's order."""
    sections = (info["input"].get(section, {}) for section in ("required", "optional"))
    return {name: spec[1] for section in sections for name, spec in section.items()}


def as_message(text: str) -> str:
    """`text` as vue-i18n reads it back: its syntax characters in literal interpolation."""
    return MESSAGE_SYNTAX.sub(lambda match: f"{{'{match[0]}'}}", text)


def locale_of(info: dict) -> dict:
    """A node's entry in nodeDefs.json."""
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    entry = {
        "display_name": as_message(info["display_name"]),
        "description": as_message(info["description"]),
        "inputs": {
            name: {"name": name, "tooltip": as_message(options["tooltip"])}
            for name, options in inputs_of(info).items()
        },
        "outputs": {
            str(i): {"name": name, "tooltip": as_message(tip)}
            for i, (name, tip) in enumerate(outputs)
        },
    }
    return {key: value for key, value in entry.items() if value}


# ------------------------------------------------------------------------- the nodes' texts


def test_the_english_locale_says_what_the_schemas_say(nodes):
    expected = {id: locale_of(info) for id, info in nodes.items()}
    if os.environ.get("MOS_WRITE_LOCALE"):
        text = json.dumps(expected, indent=2, ensure_ascii=False) + "\n"
        LOCALE.write_text(text, encoding="utf-8")
    assert json.loads(LOCALE.read_text(encoding="utf-8")) == expected


def test_every_node_has_a_help_page_and_every_page_a_node(nodes):
    assert {page.stem for page in HELP.glob("*.md")} == set(nodes)


def test_a_help_page_bears_the_nodes_name_and_explains_every_input_and_output(nodes):
    missing = []
    for id, info in nodes.items():
        page = (HELP / f"{id}.md").read_text(encoding="utf-8")
        if not page.startswith(f"# {info['display_name']}\n"):
            missing.append(f"{id}: its heading is not '{info['display_name']}'")
        for section, known in (("Inputs", inputs_of(info)), ("Outputs", info["output_name"])):
            rows = rows_of(page, section)
            if sorted(rows) != sorted(known):
                missing.append(f"{id}: {section} has {rows}, the node {[*known]}")
    assert missing == []


# ------------------------------------------------------------------------- the workflows


def test_every_node_stands_in_a_shipped_workflow(nodes):
    used = {
        node["type"]
        for file in WORKFLOWS
        for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]
    }
    assert set(nodes) - used == set()


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda path: path.stem)
def test_the_nodes_of_a_workflow_have_the_inputs_of_their_schema(file, nodes):
    wrong = []
    for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]:
        if not node["type"].startswith("MOS_"):
            continue
        saved = {socket["name"] for socket in node["inputs"]}
        if saved != set(inputs_of(nodes[node["type"]])):
            wrong.append(f"{node['type']}: {sorted(saved)}")
    assert wrong == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_explains_itself_in_a_note(file):
    workflow = json.loads(file.read_text(encoding="utf-8"))
    assert any(node["type"] == "MarkdownNote" for node in workflow["nodes"])


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_says_where_the_view_begins(file):
    """Without it the newer renderer of the editor moves nodes and groups apart."""
    view = json.loads(file.read_text(encoding="utf-8"))["extra"]["ds"]
    assert 0.3 <= view["scale"] <= 1
    assert len(view["offset"]) == 2


def test_thumbnails_belong_to_workflows_and_are_small():
    pictures = sorted((CLONE / "workflows").glob("*.jpg"))
    assert pictures
    assert {picture.stem for picture in pictures} <= {file.stem for file in WORKFLOWS}
    assert sum(picture.stat().st_size for picture in pictures) < 3_000_000


def view_of_all(workflow: dict) -> dict:
    """The view that shows all of a graph in a window of 1400 x 900 pixels, beside the bars."""
    corners = [(*n["pos"], *n["size"]) for n in workflow["nodes"]]
    corners += [group["bounding"] for group in workflow.get("groups", [])]
    left, top = (min(corner[i] for corner in corners) for i in (0, 1))
    right, bottom = (max(corner[i] + corner[i + 2] for corner in corners) for i in (0, 1))
    left, top, right, bottom = left - 20, top - 50, right + 20, bottom + 20
    scale = min(1.0, 1310 / (right - left), 820 / (bottom - top))
    scale = int(scale * 100) / 100
    rest = (1310 / scale - (right - left), 820 / scale - (bottom - top))
    offset = [round(70 / scale - left + rest[0] / 2), round(60 / scale - top + rest[1] / 2)]
    return {"scale": scale, "offset": offset}


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_opens_with_its_results_in_view(file):
    workflow = json.loads(file.read_text(encoding="utf-8"))
    scale, (left, top) = (workflow["extra"]["ds"][name] for name in ("scale", "offset"))
    for node in workflow["nodes"]:
        if node["type"] in ("SaveImage", "PreviewImage", "MarkdownNote"):
            (x, y), (width, height) = node["pos"], node["size"]
            seen = (x + left) * scale >= 50 and (x + left + width) * scale <= 1400
            seen = seen and (y + top) * scale >= 40 and (y + top + height) * scale <= 900
            better = json.dumps(view_of_all(workflow))
            assert seen, f'write "ds": {better} into "extra" of {file.name}'


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda path: path.stem)
def test_no_link_of_a_workflow_runs_behind_a_canvas(file):
    workflow = json.loads(file.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    canvases = [node for node in nodes.values() if node["type"] == "MOS_RegionLayout"]
    for _, source, slot, target, input, _ in workflow["links"]:
        start, end = nodes[source], nodes[target]
        x0, x1 = start["pos"][0] + start["size"][0], end["pos"][0]
        y0, y1 = start["pos"][1] + 14 + 20 * slot, end["pos"][1] + 14 + 20 * input
        for canvas in canvases:
            (left, top), (width, height) = canvas["pos"], canvas["size"]
            if canvas["id"] not in (source, target) and x0 < left and left + width < x1:
                for step in range(11):
                    at = left + width * step / 10
                    y = y0 + (y1 - y0) * (at - x0) / (x1 - x0)
                    assert not top - 30 < y < top + height, f"{start['type']} to {end['type']}"


# ------------------------------------------------------------------------- the pages


def test_the_readme_names_every_node_and_every_workflow(nodes):
    readme = (CLONE / "README.md").read_text(encoding="utf-8")
    names = [info["display_name"] for info in nodes.values()]
    names += [f"workflows/{file.name}" for file in WORKFLOWS]
    assert [name for name in names if name not in readme] == []


def test_the_changelog_begins_with_the_version_of_the_pack():
    version = re.search(r'^version = "(.+)"$', read(CLONE / "pyproject.toml"), re.MULTILINE)[1]
    first = re.search(r"^## (\S+)", read(CLONE / "CHANGELOG.md"), re.MULTILINE)[1]
    assert first == version


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_files_that_a_page_points_to_exist(page):
    text = read(page)
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    gone = [link for link in links if not (page.parent / link).exists()]
    roots = "|".join(folder.name for folder in CLONE.iterdir() if folder.is_dir())
    named = re.findall(rf"`((?:{roots})/[\w./-]+)`", text)
    gone += [name for name in named if not (CLONE / name).exists()]
    assert gone == []


def test_no_file_speaks_of_one_persons_machine():
    found = []
    for file in tracked_files():
        try:
            text = read(file)
        except UnicodeDecodeError:
            continue
        for pattern in (MACHINE_PATH, PACKAGE_INDEX):
            found += [f"{file.relative_to(CLONE)}: {m[0]}" for m in pattern.finditer(text)]
    assert found == []


def rows_of(page: str, section: str) -> list[str]:
    """The names in the first column of a section's table."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return re.findall(r"^\| `([^`]+)` \|", text[1], re.MULTILINE) if text else []


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def tracked_files() -> list[Path]:
    """The files of the repository. Skips the test where there is none (an unpacked archive)."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=CLONE, capture_output=True, text=True)
    if done.returncode != 0 or not done.stdout:
        pytest.skip("not a git clone")
    return [path for name in done.stdout.split("\0") if name and (path := CLONE / name).is_file()]
