"""The one exception that the scripts show to a person without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class Problem(Exception):
    """Something that a person can put right; the message says what and how."""


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's `main`, end the process with its exit status; a Problem is printed, not
    raised.
    """
    try:
        status = main() or 0
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        status = 130
    sys.exit(status)
