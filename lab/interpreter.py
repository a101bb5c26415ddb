"""What the interpreter does by itself: looking for garbage and ending, which take long where much is imported, heeding
Ctrl-C, and what it asks of the kernel.

Nearly all objects that importing makes stay. Looking through them again and again takes a fifth of the time of
importing torch, and taking them apart at the end a third of it.
"""

import atexit
import gc
import os
import signal
import sys
from typing import NoReturn

AS_USUAL = gc.get_threshold()
RARELY = (100_000, 20, 20)
PR_SET_PDEATHSIG = 1


def collect_rarely() -> None:
    """Look for garbage rarely, while modules are imported."""
    gc.set_threshold(*RARELY)


def collect_as_usual() -> None:
    gc.set_threshold(*AS_USUAL)


def control(option: int, value: int) -> None:
    """prctl(2), on Linux."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, on Linux."""
    control(PR_SET_PDEATHSIG, signal.SIGKILL)


class CtrlC:
    """Handler of SIGINT, as Python's own, which remembers that it was called: the KeyboardInterrupt may be lost in code
    that makes another error of it and goes on."""

    pressed = False

    def __call__(self, *_: object) -> NoReturn:
        self.pressed = True
        raise KeyboardInterrupt


def raise_lost_interrupt() -> None:
    """Raises KeyboardInterrupt where Ctrl-C was pressed before."""
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, CtrlC) and handler.pressed:
        raise KeyboardInterrupt


class ProcessEnd:
    """Ends the process with `code`, once that is known, after all else that is done at its end: what is registered
    first is called last, so this module is to be imported early."""

    def __init__(self) -> None:
        self.code: int | None = None
        atexit.register(self.end)

    def end(self) -> None:
        if self.code is None:  # an uncaught error, from which the interpreter makes the exit code
            return
        try:
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
        except (OSError, ValueError):  # the interpreter tries it again, and reports it
            return
        os._exit(self.code & 0xFF)


PROCESS_END = ProcessEnd()
