"""A real ComfyUI server with the pack in it: lay its base folder, start it, wait, stop it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from .comfyui import ComfyUI
from .launch import FOLLOW_STDIN
from .places import CLONE, PACK_NAME
from .problem import Problem
from .torch_build import sees_gpu

START_SECONDS = 180
STOP_SECONDS = 20
LOG_LINES_SHOWN = 40
NOT_COPIED = shutil.ignore_patterns(".*", "output", "__pycache__")

open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""Like urllib's urlopen, but never through a proxy: the server is on this machine."""


class Server:
    """A ComfyUI server process on a port of this machine.

    comfyui: which ComfyUI; base: its base folder (models, custom nodes, user data), made where it
    is missing; arguments: more arguments for ComfyUI; node_packs: more folders or files for
    `custom_nodes`; log: a file for what the server prints, None prints it here; port: None takes a
    free one; environ: environment variables beside this process's own.
    """

    def __init__(
        self,
        comfyui: ComfyUI,
        base: Path,
        arguments: Sequence[str] = (),
        node_packs: Sequence[Path] = (),
        log: Path | None = None,
        port: int | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.comfyui = comfyui
        self.base = base
        self.arguments = list(arguments)
        self.node_packs = list(node_packs)
        self.log = log
        self.port = port or free_port()
        self.environ = {**os.environ, **(environ or {})}
        self.process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Server:
        """Start the server and return once it answers. Raises Problem with the end of its log where
        it does not.
        """
        lay_base(self.base, self.node_packs)
        command = [
            sys.executable,
            str(Path(__file__).with_name("launch.py")),
            str(self.comfyui.path),
        ]
        environ = {**self.environ, FOLLOW_STDIN: "1", "PYTHONUNBUFFERED": "1"}
        output = open(self.log, "wb") if self.log else None  # noqa: SIM115 (the process keeps it)
        try:
            self.process = subprocess.Popen(
                [*command, *self._comfyui_arguments()],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                env=environ,
                cwd=self.comfyui.path,
                start_new_session=True,  # Ctrl-C is for us; we then stop the server
            )
        finally:
            if output:
                output.close()
        self._wait()
        return self

    def stop(self) -> None:
        """End the server: its standard input closes, and it stops by itself; killed where it does
        not.
        """
        if self.process is None:
            return
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait(self) -> int:
        """Wait until the server ends by itself; its exit status."""
        assert self.process is not None
        return self.process.wait()

    def log_end(self) -> str:
        """The last lines that the server printed, where they went to a file."""
        if not (self.log and self.log.exists()):
            return ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES_SHOWN:])

    def _comfyui_arguments(self) -> list[str]:
        arguments = [
            "--base-directory",
            str(self.base),
            "--port",
            str(self.port),
            "--disable-auto-launch",
        ]
        arguments += [
            "--database-url",
            f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}",
        ]
        if "--cpu" not in self.arguments and not sees_gpu():
            arguments.append("--cpu")
        if self.comfyui.own:
            arguments += [
                "--extra-model-paths-config",
                str(write_model_paths(self.comfyui.path, self.base)),
            ]
        return arguments + self.arguments

    def _wait(self) -> None:
        assert self.process is not None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                status = self.process.returncode
                raise Problem(
                    f"ComfyUI ended with status {status} as it started:\n{self.log_end()}"
                )
            try:
                with open_url(f"{self.address}/system_stats", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise Problem(f"ComfyUI did not answer within {START_SECONDS} s:\n{self.log_end()}")


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_is_free(port: int) -> bool:
    """Whether nothing listens on `port` of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def lay_base(base: Path, node_packs: Sequence[Path] = ()) -> None:
    """Make a base folder for ComfyUI whose `custom_nodes` holds this pack and `node_packs`, and
    nothing else.
    """
    for folder in ("custom_nodes", "input", "models", "output", "temp", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    place(CLONE, base / "custom_nodes" / PACK_NAME)
    for pack in node_packs:
        place(pack, base / "custom_nodes" / pack.name)


def place(source: Path, target: Path) -> None:
    """Make `target` a link to `source`; a copy where the system makes no links. What was at
    `target` goes.
    """
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.is_dir():
        shutil.rmtree(target)
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
    except OSError:
        if source.is_dir():
            shutil.copytree(source, target, ignore=NOT_COPIED)
        else:
            shutil.copy2(source, target)


def write_model_paths(comfyui: Path, base: Path) -> Path:
    """Write a file for --extra-model-paths-config that adds every model folder of a person's own
    ComfyUI.
    """
    models = comfyui / "models"
    kinds = (
        sorted(path.name for path in models.iterdir() if path.is_dir()) if models.is_dir() else []
    )
    lines = [
        "own_comfyui:",
        f"  base_path: '{models.as_posix()}'",
        *(f"  {kind}: {kind}" for kind in kinds),
    ]
    file = base / "own_models.yaml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
