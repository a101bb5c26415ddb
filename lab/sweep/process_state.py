"""The state of a process that a run may change, saved and restored between runs."""

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
    """The settings of a process that a run may change, as they are now; `restore` brings them back."""

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
        os.umask(umask := os.umask(0o077))
        self.umask = umask

    def restore(self) -> None:
        import torch

        self.forget_projects_modules()
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
        gc.freeze()  # what is still there stays: 20,000 objects less to look at after the next run
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def forget_projects_modules(self) -> None:
        """The project's code is imported anew by each run, as what it keeps at the top of a module may change."""
        for name in sys.modules.keys() - self.modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file and not name.startswith("lab.") and is_project_source(Path(file)):
                del sys.modules[name]

    def restore_torch(self) -> None:
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
        for _ in range(torch.autocast_increment_nesting()):  # as long as it is nested it keeps casts of old weights
            torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        numpy.seterr(**self.numpy_errors)
        torch.set_rng_state(self.generators[0])
        numpy.random.set_state(self.generators[1])
        random.setstate(self.generators[2])
        signal.alarm(0)
