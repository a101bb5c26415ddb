"""The state that a run carries from one step to the next, as tensors and plain values."""

import random
from typing import Any

import numpy
import torch

from lab.distributed import collectives, shards
from lab.run import Run
from lab.seeding import seed_all, stream_seed


def take_snapshot(run: Run) -> dict[str, Any]:
    """The state after the last step. Its tensors are not copies: save it before the next step changes them."""
    state = {name: shards.gather_state(getattr(run, name).state_dict()) for name in STATEFUL}
    state["scaler"] = run.hardware.scaler.state_dict()
    state["generators"], *others = collectives.all_gather(generator_states(run))
    if others:
        state["generators_of_others"] = others
    return state


def restore_snapshot(run: Run, state: dict[str, Any]) -> None:
    """Restore a state that `take_snapshot` returned. It holds no position in the data, which is the number of steps.

    A rank that did not exist when the snapshot was taken starts a new dropout stream.
    """
    shards.load_model_state(run.model, state["model"])
    shards.load_optimizer_state(run.optimizer, state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    run.regularize.load_state_dict(state["regularize"])
    run.hardware.scaler.load_state_dict(state["scaler"])
    saved = [state["generators"], *state.get("generators_of_others", ())]
    if collectives.get_rank() < len(saved):
        set_generator_states(run, saved[collectives.get_rank()])
    else:
        seed_dropout(run)


def seed_dropout(run: Run) -> None:
    """Seed the global generators of all devices, which the model draws from. Each rank has its own stream; rank 0's is
    the same as in a run of one process."""
    seed_all(stream_seed(run.seed, "dropout", *filter(None, [collectives.get_rank()])))


def generator_states(run: Run) -> dict[str, Any]:
    """The states of the global generators that the model may draw from."""
    states: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": numpy_generator_state(),
    }
    if run.hardware.device.startswith("cuda"):
        states["cuda"] = torch.cuda.get_rng_state(run.hardware.device)
    if run.hardware.device == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_generator_states(run: Run, saved: dict[str, Any]) -> None:
    torch.set_rng_state(saved["cpu"])
    random.setstate(saved["python"])
    name, keys, *rest = saved["numpy"]
    numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), *rest))
    if "cuda" in saved and run.hardware.device.startswith("cuda"):
        torch.cuda.set_rng_state(saved["cuda"], run.hardware.device)
    if "mps" in saved and run.hardware.device == "mps":
        torch.mps.set_rng_state(saved["mps"])


def numpy_generator_state() -> tuple[Any, ...]:
    """The state of NumPy's global generator, as values that `torch.load` reads with weights_only=True."""
    name, keys, *rest = numpy.random.get_state(legacy=True)
    return (name, torch.from_numpy(numpy.asarray(keys, numpy.int64)), *rest)


STATEFUL = ("model", "optimizer", "schedule", "regularize")
