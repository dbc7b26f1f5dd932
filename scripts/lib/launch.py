"""Started by the environment's Python: prepare what ComfyUI needs, then run its main.py as the main
program.

    python launch.py COMFYUI_FOLDER [ComfyUI's arguments]

With MOS_FOLLOW_STDIN set, the server stops when its standard input closes, that is when its starter
is gone.
"""

import _thread
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

FOLLOW_STDIN = "MOS_FOLLOW_STDIN"
GRACE_SECONDS = 10


def _stop_with_starter() -> None:
    def wait() -> None:
        while os.read(0, 4096):
            pass
        if os.name == "nt":
            _thread.interrupt_main()
        else:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="stop-with-starter").start()


def main() -> None:
    scripts = Path(__file__).absolute().parents[1]
    sys.path[0] = str(scripts)
    from lib import torchaudio_library, torchvision_operators

    torchaudio_library.install()
    torchvision_operators.install()
    sys.path.remove(str(scripts))
    if os.environ.pop(FOLLOW_STDIN, None):
        _stop_with_starter()
    comfyui = sys.argv[1]
    sys.argv = [str(Path(comfyui) / "main.py"), *sys.argv[2:]]
    sys.path.insert(0, comfyui)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
