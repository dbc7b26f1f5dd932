"""The harness itself: what it promises to the other tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import support.with_comfyui  # noqa: F401

CLONE = Path(__file__).absolute().parents[1]


def test_comfyui_is_importable_and_its_modules_are_not_hidden_by_the_packs():
    import nodes

    assert "KSampler" in nodes.NODE_CLASS_MAPPINGS
    assert Path(nodes.__file__).name == "nodes.py"


def test_the_clone_is_not_on_the_search_path():
    assert not any(
        os.path.exists(entry) and os.path.samefile(entry, CLONE)
        for entry in [p or "." for p in sys.path]
    )


def test_the_pack_is_loaded_under_a_name_of_its_own():
    import mix_of_show.mos_core

    assert Path(mix_of_show.__file__) == CLONE / "__init__.py"
    assert "mos_core" not in sys.modules


def test_the_command_line_of_pytest_is_not_comfyuis():
    import comfy.cli_args
    import comfy.options

    assert not comfy.options.args_parsing
    assert comfy.cli_args.args.port == 8188


def test_comfyui_writes_into_a_temporary_folder():
    import folder_paths

    assert "mix-of-show-tests-" in folder_paths.get_output_directory()


@pytest.mark.gpu
def test_a_gpu_is_used_where_there_is_one():
    import comfy.model_management

    assert comfy.model_management.get_torch_device().type != "cpu"


def test_the_tests_of_the_core_need_no_comfyui(tmp_path):
    """A folder that is no ComfyUI stands in for it: whoever looks for ComfyUI is refused."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "tests/core"],
        cwd=CLONE,
        env={**os.environ, "COMFYUI_PATH": str(tmp_path), "COVERAGE_PROCESS_START": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
