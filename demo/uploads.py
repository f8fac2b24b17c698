"""A temporary folder for uploads that does not outlive its server for long, however that ends."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: what a killed server leaves there stays
    fcntl = None

PREFIX = "defects-"


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder of this process; removes it at the end, and at the start those of dead ones.

    A living process holds a lock on its folder, which the system gives up when it dies.
    """
    if fcntl is not None:
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            _remove_if_abandoned(folder)
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        lock = _lock(Path(folder))
        try:
            yield Path(folder)
        finally:
            if lock is not None:
                os.close(lock)
            # A request that is still answered may write while its folder is being removed.
            for _ in range(20):
                shutil.rmtree(folder, ignore_errors=True)
                if not Path(folder).exists():
                    break
                time.sleep(0.1)


def _remove_if_abandoned(folder: Path) -> None:
    with suppress(OSError):  # it lives, or belongs to somebody else
        lock = _lock(folder)
        try:
            shutil.rmtree(folder)
        finally:
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder; gives what to close. Raises `OSError` if another process has it."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
