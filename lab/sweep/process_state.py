"""The state of a worker's process that a run may change: saved once, and restored before each further run."""

import gc
import logging
import os
import random
import signal
import sys
import warnings
from pathlib import Path

from lab.config.targets import is_project_source


class ProcessState:
    """A snapshot of what a run may change in its process: settings of torch, NumPy, logging and warnings, generators,
    environment, working directory, sys.path, streams, umask and imported modules. `restore` brings it back.
    """

    def __init__(self) -> None:
        import numpy
        import torch

        self.threads, self.dtype = torch.get_num_threads(), torch.get_default_dtype()
        self.precision = torch.get_float32_matmul_precision()
        self.generators = torch.get_rng_state(), numpy.random.get_state(), random.getstate()
        self.environment, self.directory, self.path = dict(os.environ), os.getcwd(), list(sys.path)
        root = logging.getLogger()
        self.level, self.handlers, self.disabled = root.level, list(root.handlers), root.manager.disable
        self.filters = list(warnings.filters)
        self.modules = set(sys.modules)
        self.streams, self.numpy_errors = (sys.stdout, sys.stderr), numpy.geterr()
        os.umask(umask := os.umask(0o077))  # it can only be read by setting it
        self.umask = umask

    def restore(self) -> None:
        """Put the process back into the saved state, and free what the last run left in memory."""
        import torch

        self.unload_project_modules()
        os.chdir(self.directory)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.path[:] = self.path
        root = logging.getLogger()
        root.handlers[:], root.manager.disable = self.handlers, self.disabled
        root.setLevel(self.level)
        sys.stdout, sys.stderr = self.streams
        os.umask(self.umask)
        warnings.filters[:] = self.filters  # type: ignore[index]
        warnings._filters_mutated()  # type: ignore[attr-defined]
        self.restore_torch()
        if "torch._dynamo" in sys.modules:
            sys.modules["torch._dynamo"].reset()
        gc.collect()
        gc.freeze()  # objects that live now will stay: 20,000 fewer for the collection after the next run
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def unload_project_modules(self) -> None:
        """Remove the project's modules that the last run imported, so that the next run imports them anew: a run may
        have changed their globals."""
        for name in sys.modules.keys() - self.modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file and not name.startswith("lab.") and is_project_source(Path(file)):
                del sys.modules[name]

    def restore_torch(self) -> None:
        """Restore the settings of torch and NumPy and the global generators. Settings that were not saved get torch's
        initial values."""
        import numpy
        import torch

        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)
        torch.set_float32_matmul_precision(self.precision)
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]
        torch.autograd.set_detect_anomaly(False)
        torch.set_flush_denormal(False)
        for device in ("cpu", "cuda"):
            torch.set_autocast_enabled(device, False)
        for _ in range(torch.autocast_increment_nesting()):  # while it is nested, its cache keeps casts of old weights
            torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        numpy.seterr(**self.numpy_errors)
        torch.set_rng_state(self.generators[0])
        numpy.random.set_state(self.generators[1])
        random.setstate(self.generators[2])
        signal.alarm(0)
