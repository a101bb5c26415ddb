"""`lab`: research experiments on PyTorch. Importing it imports no torch: each name is imported on its first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lab.version import __version__ as __version__

if TYPE_CHECKING:
    from lab.assembly.build import build as build
    from lab.errors import ConfigError as ConfigError
    from lab.errors import LabError as LabError
    from lab.errors import Refused as Refused
    from lab.hardware import Hardware as Hardware
    from lab.library import compose as compose
    from lab.library import fit as fit
    from lab.library import load as load
    from lab.library import predict as predict
    from lab.library import runs as runs
    from lab.metrics.scores import Evaluation as Evaluation
    from lab.record.console import Console as Console
    from lab.record.record import Record as Record
    from lab.run import Run as Run
    from lab.run import Step as Step
    from lab.run import cadence as cadence
    from lab.train.loop import execute as execute
    from lab.train.scoring import evaluate as evaluate

MODULES = {
    "lab.assembly.build": ("build",),
    "lab.library": ("compose", "fit", "load", "predict", "runs"),
    "lab.run": ("Run", "Step", "cadence"),
    "lab.hardware": ("Hardware",),
    "lab.record.record": ("Record",),
    "lab.record.console": ("Console",),
    "lab.metrics.scores": ("Evaluation",),
    "lab.train.loop": ("execute",),
    "lab.train.scoring": ("evaluate",),
    "lab.errors": ("LabError", "ConfigError", "Refused"),
}
LAZY = {name: module for module, names in MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module 'lab' has no attribute {name!r}")
    return getattr(import_module(LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*LAZY, "__version__"])
