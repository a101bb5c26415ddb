"""Several regularizers as one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from lab.metrics.scores import Evaluation
from lab.signatures import accepted_arguments


class Chain:
    """Composes regularizers. Every hook is optional:

    backward(once) -> loss: leaves the gradients of a step in the parameters; `once` leaves the loss's and returns it.
    add_to_gradients(model): changes the gradients, which are unscaled and not yet clipped.
    step(model): called after each optimizer step.
    model_to_score(model) -> model: the model whose weights are scored and kept, made of `model` or of what the part
    before this one made.
    statistics_stale, statistics_updated(): whether the running statistics of the model to score have to be recomputed
    from the training data, and a call once that is done; implement both or neither.
    on_scores(scores), stopped: called with each evaluation, and whether it was the last one.
    state_dict(), load_state_dict(state): what the regularizer carries from step to step.
    """

    def __init__(self, parts: Sequence[Any] = ()):
        lists = [part.parts if isinstance(part, Chain) else [part] for part in parts if part is not None]
        self.parts = [part for flat in lists for part in flat]
        self.backwards = self.parts_with("backward")
        self.penalties = self.parts_with("add_to_gradients")
        self.steps = self.parts_with("step")
        self.averages = self.parts_with("model_to_score")
        self.watchers = self.parts_with("on_scores")
        self.stateful = self.parts_with("state_dict")

    def parts_with(self, hook: str) -> list[Any]:
        return [part for part in self.parts if hasattr(part, hook)]

    @property
    def stopped(self) -> bool:
        return any(getattr(part, "stopped", False) for part in self.parts)

    def wrap_backward(self, backward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`backward` inside that of every part which has one; `backward` itself where none has."""
        for part in self.backwards:
            backward = partial(call_wrapped, part, backward)
        return backward

    def add_to_gradients(self, model: nn.Module) -> None:
        for part in self.penalties:
            part.add_to_gradients(model)

    def step(self, model: nn.Module) -> None:
        for part in self.steps:
            part.step(model)

    def model_to_score(
        self, model: nn.Module, update_statistics: Callable[[nn.Module], None] | None = None
    ) -> nn.Module:
        """The model whose weights are scored and kept.

        update_statistics: recomputes the running statistics of a model, where a part's are stale; None leaves them.
        """
        for part in self.averages:
            model = part.model_to_score(model)
            if update_statistics and getattr(part, "statistics_stale", False):
                update_statistics(model)
                part.statistics_updated()
        return model

    def on_scores(self, scores: Evaluation) -> None:
        for part in self.watchers:
            part.on_scores(scores)

    def state_dict(self) -> dict[str, Any]:
        return {f"{n}_{type(part).__name__}": part.state_dict() for n, part in enumerate(self.stateful)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for n, part in enumerate(self.stateful):
            part.load_state_dict(state[f"{n}_{type(part).__name__}"])


def call_wrapped(part: Any, backward: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """The part's own backward pass, which calls `backward(*arguments)` as often as it needs."""
    return part.backward(partial(backward, *arguments))


def chain(
    model: nn.Module, monitor: Any, steps: int, steps_per_epoch: int, regularizers: Sequence[Callable[..., Any]]
) -> Chain:
    """Each of `regularizers`, called with the facts of the run that it takes and the config does not give, in order.

    Of several that average weights, the last one's are scored.
    """
    facts = {"model": model, "monitor": monitor, "steps": steps, "steps_per_epoch": steps_per_epoch}
    parts = []
    for number, make_part in enumerate(regularizers):
        if not callable(make_part):
            raise ValueError(f"regularizers.{number} is made already; give it _partial_: true")
        parts.append(make_part(**accepted_arguments(make_part, facts)))
    return Chain(parts)
