"""The client, the scripts on a bare machine, and the browser's tests."""

import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lib import browser, client, environment
from lib.problem import Problem, run_script

SCRIPTS = Path(__file__).absolute().parents[1] / "scripts"


def load_script(name):
    loader = importlib.machinery.SourceFileLoader(f"script_{name}", str(SCRIPTS / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


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
    assert spread(["-k", "workflow"]) == [
        "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"
    ]  # fmt: skip
    assert spread(["--pdb"]) == spread(["-n", "3"]) == spread(["--numprocesses=3"]) == []
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert spread([]) == []


def test_a_file_of_tests_runs_in_one_process(monkeypatch):
    """What a file sets up once is set up once."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    files = [f"tests/core/test_{name}.py" for name in ("deltas", "packed", "handoff")]
    command = [sys.executable, "-m", "pytest", "-v", *load_script("test").spread([]), *files]
    run = subprocess.run(command, cwd=SCRIPTS.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    ran = set(re.findall(r"\[(gw\d)\] .*? (tests/core/test_\w+\.py)::", run.stdout))
    assert sorted(file for _, file in ran) == sorted(files)


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
