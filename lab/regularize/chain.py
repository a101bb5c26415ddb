"""Several regularizers as one, each with a say only where it has something to say."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn


class Chain:
    """What the loop asks, answered by those of `parts` that can. None of these is a must for a part:

    backward(once) -> loss: leave the gradients of a step in the parameters; `once` leaves the loss's and gives it.
    penalise(model): add to the gradients, unscaled and not yet clipped.
    step(model): after each optimizer step.
    scored(model) -> model: the weights that are scored and kept.  stale: whether the running statistics of what
    `scored` gives have to be taken anew from the training data.
    seen(scores), stopped: of each evaluation, and whether that was the last one.
    state_dict(), load_state_dict(state): what it carries from step to step.
    """

    def __init__(self, parts: Sequence[Any] = ()):
        self.parts = [part for part in parts if part is not None]
        self.backwards, self.penalties, self.steps, self.averages, self.watchers, self.stateful = (
            [part for part in self.parts if hasattr(part, name)]
            for name in ("backward", "penalise", "step", "scored", "seen", "state_dict")
        )

    @property
    def stopped(self) -> bool:
        return any(getattr(part, "stopped", False) for part in self.parts)

    @property
    def stale(self) -> bool:
        return any(getattr(part, "stale", False) for part in self.parts)

    def backward(self, once: Callable[[], Tensor]) -> Tensor:
        for part in self.backwards:
            once = partial(part.backward, once)
        return once()

    def penalise(self, model: nn.Module) -> None:
        for part in self.penalties:
            part.penalise(model)

    def step(self, model: nn.Module) -> None:
        for part in self.steps:
            part.step(model)

    def scored(self, model: nn.Module) -> nn.Module:
        for part in self.averages:
            model = part.scored(model)
        return model

    def seen(self, scores: dict[str, float]) -> None:
        for part in self.watchers:
            part.seen(scores)

    def state_dict(self) -> dict[str, Any]:
        return {f"{n}_{type(part).__name__}": part.state_dict() for n, part in enumerate(self.stateful)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for n, part in enumerate(self.stateful):
            part.load_state_dict(state[f"{n}_{type(part).__name__}"])


def chain(model: nn.Module, monitor: Any, regularizers: Sequence[Callable[..., Any]]) -> Chain:
    """Each of `regularizers`, made with what it takes of the model and the monitor, one after the other."""
    given = {"model": model, "monitor": monitor}
    made = []
    for make in regularizers:
        takes = inspect.signature(make).parameters
        made.append(make(**{name: value for name, value in given.items() if name in takes}))
    return Chain(made)
