"""What ARCHITECTURE.md promises of the imports, read from the sources themselves."""

import ast
from pathlib import Path

import pytest

CLONE = Path(__file__).absolute().parents[1]
CORE = CLONE / "mos_core"
LONGEST = 300  # lines of a file

# Room -> the rooms of mos_core that it may import; a file of mos_core itself is a room.
ROOMS = {
    "errors": set(),
    "deltas": set(),
    "adapters": {"deltas"},
    "noise": set(),
    "families": {"errors"},
    "records": {"adapters", "deltas"},
    "formats": {"errors", "adapters", "deltas", "records", "families"},
    "text": {"errors", "records", "families"},
    "regions": {"errors"},
    "find": {"errors", "records", "text", "regions"},
    "train": {"errors", "adapters", "deltas", "noise", "records", "families"},
    "fuse": {"errors", "deltas", "records", "families"},
    "compose": {"errors", "deltas", "noise", "records", "families", "text", "regions"},
}
# Room of patch/ -> the rooms of patch/ that it may import; "" are the files of patch/ itself.
PATCH_ROOMS = {
    "host": set(),
    "text": {"host"},
    "": {"host", "text"},
    "regional": {"", "host", "text"},
    "train": {"", "host", "text"},
    "fuse": {"", "host", "text"},
    "compose": {"", "host", "text", "regional", "find"},
    "find": {"", "host", "text", "regional"},
}


def modules() -> dict[str, Path]:
    """Every module of mos_core by its dotted name below mos_core ("patch.host.bind")."""
    found = {}
    for path in sorted(CORE.rglob("*.py")):
        parts = path.relative_to(CORE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """What a module imports: modules of mos_core by their names here, all others in full."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            whole = ".".join([*base, *filter(None, [node.module])])
            names = [".".join(filter(None, [whole, alias.name])) for alias in node.names]
            known = {each for each in names if each in MODULES}
            found |= known or {whole}
    return found


def room_of(name: str) -> str:
    return name.split(".")[0]


def patch_room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in PATCH_ROOMS else ""


@pytest.mark.parametrize("name", MODULES)
def test_only_patch_imports_comfyui(name):
    foreign = {each.split(".")[0] for each in imports(name) if each not in MODULES}
    hosts = foreign & {"comfy", "comfy_api", "comfy_extras", "folder_paths", "nodes", "execution"}
    assert room_of(name) == "patch" or not hosts


@pytest.mark.parametrize("name", [m for m in MODULES if m and room_of(m) != "patch"])
def test_a_room_knows_only_the_rooms_before_it(name):
    own = room_of(name)
    others = {room_of(each) for each in imports(name) if each in MODULES and each} - {own}
    assert others <= ROOMS[own], f"{name} imports {others - ROOMS[own]}"


@pytest.mark.parametrize("name", [m for m in MODULES if room_of(m) == "patch"])
def test_a_room_of_patch_knows_only_the_rooms_before_it(name):
    own = patch_room_of(name)
    inside = {each for each in imports(name) if each in MODULES and room_of(each) == "patch"}
    others = {patch_room_of(each) for each in inside} - {own}
    assert others <= PATCH_ROOMS[own], f"{name} imports {others - PATCH_ROOMS[own]}"


def test_no_modules_import_each_other_in_a_circle():
    edges = {name: {i for i in imports(name) if i in MODULES} - {name} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in edges:
        visit(name, ())


@pytest.mark.parametrize(
    "folder", ["mos_core", "nodes", "web", "scripts", "tests", "demo", "benchmarks"]
)
def test_no_file_is_longer_than_a_person_reads(folder):
    for path in sorted((CLONE / folder).rglob("*")):
        if path.suffix in (".py", ".js", ".mjs") and "__pycache__" not in path.parts:
            lines = path.read_text(encoding="utf-8").count("\n")
            assert lines <= LONGEST, f"{path.relative_to(CLONE)} has {lines} lines"


@pytest.mark.parametrize("folder", ["mos_core", "nodes"])
def test_every_file_logs_under_its_own_name(folder):
    for path in sorted((CLONE / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "logging"
        }
        assert used <= {"logging.getLogger"}, f"{path.relative_to(CLONE)} uses {used}"
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        made = [ast.unparse(call) for call in calls if "getLogger" in ast.unparse(call.func)]
        assert made in ([], ["logging.getLogger(__name__)"]), path.relative_to(CLONE)
