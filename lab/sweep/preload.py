"""Imported first by the process that imports torch once and is then forked for each worker."""

from lab.interpreter import collect_rarely

collect_rarely()
