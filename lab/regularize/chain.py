"""Several regularizers as one, each with a say only where it has something to say."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from lab.signatures import accepted_arguments


class Chain:
    """What the loop asks, answered by those of `parts` that can. None of these is a must for a part:

    backward(once) -> loss: leave the gradients of a step in the parameters; `once` leaves the loss's and gives it.
    penalise(model): add to the gradients, unscaled and not yet clipped.
    step(model): after each optimizer step.
    scored(model) -> model: the weights that are scored and kept, made of the model's or of the part's before.
    stale, refreshed(): whether the running statistics of what `scored` gives have to be taken anew from the training
    data, and that they have been; who has the one has the other.
    seen(scores), stopped: of each evaluation, and whether that was the last one.
    state_dict(), load_state_dict(state): what it carries from step to step.
    """

    def __init__(self, parts: Sequence[Any] = ()):
        lists = [part.parts if isinstance(part, Chain) else [part] for part in parts if part is not None]
        self.parts = [part for some in lists for part in some]
        self.backwards, self.penalties, self.steps, self.averages, self.watchers, self.stateful = (
            [part for part in self.parts if hasattr(part, name)]
            for name in ("backward", "penalise", "step", "scored", "seen", "state_dict")
        )

    @property
    def stopped(self) -> bool:
        return any(getattr(part, "stopped", False) for part in self.parts)

    def around(self, backward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`backward` with every part's own around it; itself where none has one."""
        for part in self.backwards:
            backward = partial(backward_of, part, backward)
        return backward

    def penalise(self, model: nn.Module) -> None:
        for part in self.penalties:
            part.penalise(model)

    def step(self, model: nn.Module) -> None:
        for part in self.steps:
            part.step(model)

    def scored(self, model: nn.Module, renew: Callable[[nn.Module], None] | None = None) -> nn.Module:
        """renew: takes the running statistics of a model anew, where a part's are stale."""
        for part in self.averages:
            model = part.scored(model)
            if renew and getattr(part, "stale", False):
                renew(model)
                part.refreshed()
        return model

    def seen(self, scores: dict[str, float]) -> None:
        for part in self.watchers:
            part.seen(scores)

    def state_dict(self) -> dict[str, Any]:
        return {f"{n}_{type(part).__name__}": part.state_dict() for n, part in enumerate(self.stateful)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for n, part in enumerate(self.stateful):
            part.load_state_dict(state[f"{n}_{type(part).__name__}"])


def backward_of(part: Any, backward: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return part.backward(partial(backward, *arguments))


def chain(
    model: nn.Module, monitor: Any, steps: int, steps_per_epoch: int, regularizers: Sequence[Callable[..., Any]]
) -> Chain:
    """Each of `regularizers`, made with what it takes of the run and is not given, one after the other.

    Of several that average, the last one's weights are scored.
    """
    of_run = {"model": model, "monitor": monitor, "steps": steps, "steps_per_epoch": steps_per_epoch}
    made = []
    for number, make in enumerate(regularizers):
        if not callable(make):
            raise ValueError(f"regularizers.{number} is made already; give it _partial_: true")
        made.append(make(**accepted_arguments(make, of_run)))
    return Chain(made)
