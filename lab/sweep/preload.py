"""Imported first by the process that imports torch once and is then forked for each worker."""

import ctypes
import signal
import sys

from lab.interpreter import collect_rarely

PR_SET_PDEATHSIG = 1

collect_rarely()
if any(argument.startswith("from multiprocessing.forkserver ") for argument in sys.orig_argv):
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # else it would go on importing for nobody
