"""Loader workers that end with the process that trains, not before it and not after it."""

import os
import signal
import sys
import threading
from collections.abc import Set

from lab.interpreter import end_with_parent

# sent by schedulers, service managers and terminals to all processes of a job; the process that trains decides
JOB_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


def enter_loader_worker(_: int) -> None:
    """The `worker_init_fn` of a DataLoader. On Linux, the worker is killed when the process that trains ends, and
    ignores signals from elsewhere, as that process still needs batches to end its step."""
    if sys.platform != "linux":
        return
    end_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
    threading.Thread(target=heed_signals_of, args=(os.getppid(), JOB_SIGNALS), daemon=True).start()


def heed_signals_of(parent: int, numbers: Set[signal.Signals]) -> None:
    """End this process at a signal that its parent sends, as torch does to end a loader."""
    while signal.sigwaitinfo(numbers).si_pid != parent:
        pass
    os._exit(0)
