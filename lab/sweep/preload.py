"""Imported first by the process that imports torch once and is then forked for each worker."""

import sys

from lab.interpreter import collect_rarely, end_with_parent

collect_rarely()
if any(argument.startswith("from multiprocessing.forkserver ") for argument in sys.orig_argv):
    end_with_parent()  # else it would go on importing for nobody
