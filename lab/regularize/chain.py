"""Several regularizers as one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from lab.metrics.scores import Evaluation
from lab.signatures import accepted_arguments


class Chain:
    """Composes regularizers. Every hook is optional:

    backward(once) -> loss: leaves the gradients of a step in the parameters. `once()` runs one forward and backward
        pass, which leaves the loss's gradients in the parameters, and returns the loss.
    add_to_gradients(model): changes the gradients, which are unscaled and not yet clipped.
    step(model): is called after each optimizer step.
    model_to_score(model) -> model: returns the model whose weights are scored and kept. `model` is the trained model or
        the result of the part before this one.
    statistics_stale, statistics_updated(): the first tells whether the BatchNorm statistics of the model to score have
        to be recomputed from the training data, the second is called after that. Implement both or neither.
    on_scores(scores), stopped: the first is called with each evaluation, the second tells whether to end the run.
    state_dict(), load_state_dict(state): state that the regularizer carries from step to step. Implement both or
        neither.
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
        """`backward` wrapped in the `backward` hook of every part that has one."""
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

        update_statistics: function that recomputes stale BatchNorm statistics of a model; None to skip that.
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
    """The part's `backward` hook, which calls `backward(*arguments)` as often as it needs."""
    return part.backward(partial(backward, *arguments))


def chain(
    model: nn.Module, monitor: Any, steps: int, steps_per_epoch: int, regularizers: Sequence[Callable[..., Any]]
) -> Chain:
    """The regularizers, made in order. Each is called with those of the other arguments that it takes and that its
    config does not set.

    If several average the weights, the last one's average is scored.
    """
    facts = {"model": model, "monitor": monitor, "steps": steps, "steps_per_epoch": steps_per_epoch}
    parts = []
    for number, make_part in enumerate(regularizers):
        if not callable(make_part):
            raise ValueError(f"regularizers.{number} is an object already; give it _partial_: true")
        parts.append(make_part(**accepted_arguments(make_part, facts)))
    return Chain(parts)
