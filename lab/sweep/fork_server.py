"""multiprocessing's fork server, the process from which the workers of a sweep are forked."""

import signal
import sys
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker

from lab.train.stop import STOP_SIGNALS

# imported once, by the process from which the workers are forked
PRELOADED_MODULES = (
    *("lab.sweep.preload", "lab.assembly.preflight", "lab.record.record", "lab.record.tensorboard", "lab.sweep.worker"),
    *("torch._dynamo", "tensorboard.summary.writer.event_file_writer", "tensorboard.plugins.hparams.summary_v2"),
)


def start_fork_server(modules: Sequence[str] = ()) -> None:
    """Start multiprocessing's fork server on Linux, which imports torch once for all workers, in the background;
    nothing where it runs already. It and the processes that it forks begin with stop signals blocked: sent to all
    processes of a job, they must not end the fork server.

    modules: lab's modules that the runs need, imported as well.
    """
    if sys.platform != "linux":
        return
    forkserver.set_forkserver_preload([*PRELOADED_MODULES, *modules])
    resource_tracker.ensure_running()  # first, as starting it unblocks signals
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *STOP_SIGNALS})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
