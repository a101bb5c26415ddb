"""`lab`: research experiments on PyTorch. Importing it costs no torch; what is named here is imported when used."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

LAZY = {
    "Run": "lab.run",
    "cadence": "lab.run",
    "Step": "lab.run",
    "Hardware": "lab.hardware",
    "Record": "lab.record.record",
    "Console": "lab.record.console",
    "train": "lab.train.loop",
    "execute": "lab.train.loop",
    "evaluate": "lab.train.scoring",
}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module 'lab' has no attribute {name!r}")
    return getattr(import_module(LAZY[name]), name)
