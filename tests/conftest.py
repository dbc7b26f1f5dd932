"""The test harness: the pack in this process, and one real server for the session.

Tests import the pack under a name of its own (`from mix_of_show.mos_core import ...`), the way
ComfyUI loads it; that is set up here, and takes neither torch nor ComfyUI. tests/core stays without
ComfyUI; tests/tiny has it in this process (support/with_comfyui.py), the server in its own.
"""

import importlib
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Tiny tensors gain nothing from threads, and lose much where the cores are busy: five times."""

TESTS = Path(__file__).absolute().parent
sys.path.insert(0, str(TESTS.parent / "scripts"))  # the package lib
sys.path.append(str(TESTS))  # the package support

from lib import inprocess  # noqa: E402
from lib.client import Client  # noqa: E402
from lib.server import Server  # noqa: E402
from lib.torch_build import sees_gpu  # noqa: E402

inprocess.load_pack()


def pytest_addoption(parser):
    parser.addoption(
        "--steps", type=int, default=2, help="sampler steps of the shipped workflows; 0: as saved"
    )


def pytest_unconfigure():
    prepared = sys.modules.get("support.with_comfyui")
    if prepared is not None:
        prepared.BASE.cleanup()


def pytest_collection_modifyitems(config, items):
    skip = pytest.mark.skip(reason="there is no GPU")
    for item in items:
        if "server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.server)
        if item.get_closest_marker("gpu") and not sees_gpu():
            item.add_marker(skip)
    if hasattr(config, "workerinput"):  # one of several processes of scripts/test
        items.sort(key=lambda item: ["server", "tiny", "rest"].index(ring_of(item)))


def ring_of(item) -> str:
    """server: needs a ComfyUI server, or a browser on one, which takes longest. tiny, rest."""
    if "server" in getattr(item, "fixturenames", ()) or item.path.name.startswith("test_web_"):
        return "server"
    return "tiny" if item.path.parent.name == "tiny" else "rest"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    server = getattr(item, "funcargs", {}).get("server")
    if report.failed and server is not None:
        report.sections.append(("the end of the server's log", server.log_end()))
    return report


@pytest.fixture(autouse=True)
def nothing_stays_interrupted():
    """No test may leave ComfyUI interrupted: the next prompt of the same process would end."""
    yield
    management = sys.modules.get("comfy.model_management")
    if management is not None and management.processing_interrupted():
        management.interrupt_current_processing(False)
        pytest.fail("the test left ComfyUI interrupted")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real ComfyUI server with the pack and the packs of tests/server_nodes, for the session."""
    with make_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def newest_server(tmp_path_factory):
    """The same with the newest of ComfyUI's editors."""
    from lib.browser import newest_editor

    pages = ["--front-end-root", str(newest_editor())]
    with make_server(tmp_path_factory.mktemp("newest_server"), pages) as running:
        yield running


def make_server(base, arguments=()):
    from support.with_comfyui import COMFYUI  # first: the models are made with ComfyUI's modules

    place_models = importlib.import_module("support.server_models").place_models
    place_models(base / "models")
    return Server(
        COMFYUI,
        base,
        arguments=["--disable-api-nodes", *arguments],
        node_packs=sorted((TESTS / "server_nodes").glob("[!_.]*")),
        log=base / "server.log",
    )


@pytest.fixture(scope="session")
def object_info(server):
    """What the server says of every node."""
    return Client(server.address).object_info()


@pytest.fixture
def client(server):
    """A client of the session's server. The test must leave the server's queue empty."""
    client = Client(server.address)
    yield client
    if not client.idle():
        client.interrupt()
        pytest.fail("the test left a prompt in the server's queue")
