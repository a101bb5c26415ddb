"""With this on PYTHONPATH, a process dies by SIGKILL when it is about to touch its files for the DIE_AT-th time.

DIE_AT=done: it dies once the status of a run is done.  DIE_WHO=worker: only the workers of a sweep die, each at its own
DIE_AT-th touch.
"""

import os
import signal
import sys
from multiprocessing import parent_process
from pathlib import Path

TOUCHES = {"open", "os.rename", "os.remove", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.truncate"}


class Deaths:
    """An audit hook that counts touches of files in outputs/ and kills the process.

    death_at: number of the touch at which it dies.  worker: count only in the workers of a sweep.  seen: past touches.
    """

    def __init__(self, death_at: int, worker: bool):
        self.death_at, self.worker, self.seen = death_at, worker, []

    def __call__(self, event: str, arguments: tuple) -> None:
        if event in TOUCHES and "outputs/" in str(arguments[0]) and not (event == "open" and is_read_only(*arguments)):
            self.touch(event, arguments[0])

    def touch(self, event: str, file: object) -> None:
        if self.worker and parent_process() is None:
            return
        self.seen.append((event, str(file)))
        if len(self.seen) == self.death_at:
            os.kill(os.getpid(), signal.SIGKILL)


def is_read_only(path: object, mode: str | None, flags: int) -> bool:
    return not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


def is_done(run: Path) -> bool:
    status = run / "status.json"
    return status.exists() and '"state": "done"' in status.read_text()


def die_at(number: int, worker: bool = False) -> Deaths:
    deaths = Deaths(number, worker)
    fsync = os.fsync

    def counted_fsync(handle: int) -> None:
        deaths.touch("fsync", handle)
        fsync(handle)
        deaths.touch("after fsync", handle)
        if deaths.death_at == 0 and is_done(Path(os.readlink(f"/proc/self/fd/{handle}"))):
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = counted_fsync
    sys.addaudithook(deaths)
    return deaths


if "DIE_AT" in os.environ:
    die_at(int(os.environ["DIE_AT"].replace("done", "0")), os.environ.get("DIE_WHO") == "worker")
