"""All that a run carries from one step to the next, as tensors and plain values."""

import random
from typing import Any

import numpy
import torch

from lab.run import Run


def snapshot(run: Run) -> dict[str, Any]:
    """The state after the last step taken. Its tensors are the live ones: save it before the next step."""
    state = {name: getattr(run, name).state_dict() for name in STATEFUL}
    state["scaler"] = run.hardware.scaler.state_dict()
    state["generators"] = {"cpu": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy_state()}
    if run.hardware.device.startswith("cuda"):
        state["generators"]["cuda"] = torch.cuda.get_rng_state(run.hardware.device)
    if run.hardware.device == "mps":
        state["generators"]["mps"] = torch.mps.get_rng_state()
    return state


def restore(run: Run, state: dict[str, Any]) -> None:
    """Bring `run` to a state that `snapshot` gave. The position in the data is the number of steps, no state."""
    for name in STATEFUL:
        getattr(run, name).load_state_dict(state[name])
    run.hardware.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["generators"]["cpu"])
    random.setstate(state["generators"]["python"])
    name, keys, *rest = state["generators"]["numpy"]
    numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), *rest))
    if "cuda" in state["generators"] and run.hardware.device.startswith("cuda"):
        torch.cuda.set_rng_state(state["generators"]["cuda"], run.hardware.device)
    if "mps" in state["generators"] and run.hardware.device == "mps":
        torch.mps.set_rng_state(state["generators"]["mps"])


def numpy_state() -> tuple[Any, ...]:
    """Of NumPy's global generator, in what a checkpoint can hold."""
    name, keys, *rest = numpy.random.get_state(legacy=True)
    return (name, torch.from_numpy(numpy.asarray(keys, numpy.int64)), *rest)


STATEFUL = ("model", "optimizer", "schedule", "regularize")
