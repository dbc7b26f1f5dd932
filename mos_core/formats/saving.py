"""Saving: inside one folder, under a free name, all or nothing."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from ..errors import SaveError


def save_numbered(folder: Path, prefix: str, ending: str, write: Callable[[Path], None]) -> Path:
    """Calls `write` on a temporary file and moves it to the first free `<prefix>_00001_<ending>`.

    prefix: may name subfolders of `folder`. Returns the path written. Raises SaveError when the
    prefix leaves the folder or the file cannot be written; nothing is overwritten, and nothing is
    left behind by a failure.
    """
    stem = resolve_inside(folder, prefix)
    made: list[Path] = []
    temporary = None
    try:
        made = [parent for parent in stem.parents if not parent.exists()]  # innermost first
        stem.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".saving_", suffix=ending, dir=stem.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        os.chmod(temporary, 0o666 & ~current_umask())
        for number in range(1, 100_000):
            target = stem.with_name(f"{stem.name}_{number:05}_{ending}")
            if claim(temporary, target):
                return target
        raise SaveError(f"'{prefix}' is used up: there are 99999 files of that name")
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two: disk full in write
        reason = getattr(error, "strerror", None) or error
        raise SaveError(
            f"cannot write '{prefix}' into {folder.name}: {reason}; check that the "
            "folder is writable and the disk has room"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()  # only if it is empty: the save failed


def check_room(folder: Path, size: int) -> None:
    """Raises SaveError unless the disk of `folder`, which need not exist yet, has `size` bytes."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise SaveError(
            f"the disk of the {folder.name} folder has {free / 2**20:.0f} MiB left, the result "
            f"may take {size / 2**20:.0f} MiB; make room first"
        )


def resolve_inside(folder: Path, prefix: str) -> Path:
    """`folder/prefix`. Raises SaveError if the prefix is empty or would leave the folder."""
    name = prefix.strip().replace("\\", "/")
    if not name or name[-1] == "/":
        raise SaveError("give the file a name: the file name prefix is empty")
    root = Path(os.path.realpath(folder))
    allowed = not any(ord(c) < 32 or c in ':*?"<>|' for c in name)
    stem = Path(os.path.realpath(root / name)) if allowed else root
    if root not in stem.parents:
        raise SaveError(
            f"'{prefix}' is not a name inside the {root.name} folder; use letters, digits and "
            "'/' for subfolders"
        )
    return stem


def claim(temporary: Path, target: Path) -> bool:
    """Gives the finished file its name without ever replacing another; False if it is taken."""
    try:
        os.link(temporary, target)  # atomic, fails if the target exists
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    # A file system without hard links: reserve the name, then move over the reservation.
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    try:
        os.replace(temporary, target)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return True


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
