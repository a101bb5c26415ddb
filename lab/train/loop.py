"""The loop: `train` yields steps, `execute` consumes them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import torch
from torch import nn

from lab.metrics import Scores
from lab.run import Batch, Run, Step
from lab.streams import seed_all, stream
from lab.train.feed import feed, scored
from lab.train.micro import at_once, in_parts

Trainer = Callable[[Run, int], Iterator[Step]]
Pulse = Callable[[int], str | None]


def train(run: Run, after: int = 0) -> Iterator[Step]:
    """Stochastic gradient descent on the task's loss. Yields once per optimizer step.

    after: the last step already taken; `run` must hold the state saved at that step.
    """
    scaler, size, parameters = run.hardware.scaler, run.hardware.micro_batch, run.trainable
    backward = at_once if size is None else partial(in_parts, size=size)
    training_mode(run.model)
    if after == 0:
        seed_all(stream(run.seed, "dropout"))  # what the model itself draws, on any device
    for n, batch in enumerate(feed(run, after), start=after + 1):
        loss = backward(run, batch)
        scaler.unscale_(run.optimizer)
        norm = run.clip(parameters)
        scaler.step(run.optimizer)
        scaler.update()
        run.schedule.step()
        for parameter in parameters:  # as optimizer.zero_grad, at a tenth of its cost on small models
            parameter.grad = None
        run.regularize.step(run.model)
        yield Step(n, loss.detach(), norm)


def unasked(step: int) -> None:
    return None


class Record(Protocol):
    """Who keeps what a run leaves behind; lab.record.Record does."""

    def restore(self, run: Run, /) -> int:
        """Bring `run` to its newest saved state and give that state's step, 0 where there is none."""
        ...

    def step(self, run: Run, step: Step, /) -> None: ...
    def scores(self, run: Run, n: int, scores: Scores, /) -> None: ...
    def save(self, run: Run, step: Step, /) -> None: ...

    def recall(self, run: Run, /) -> tuple[int, Scores]:
        """Bring the scored weights to the run's final ones and give their step and validation scores."""
        ...


class Stopped(Exception):
    """A run was asked to stop; its state is saved, and it goes on from there."""


def execute(run: Run, record: Record, trainer: Trainer = train, pulse: Pulse = unasked) -> dict[str, float]:
    """Train to the end and score it: the validation set on the way, the test set once, with the final weights.

    pulse: asked after every step; a reason to stop saves the state and raises Stopped.
    """
    after = record.restore(run)
    for step in () if run.regularize.stopped else trainer(run, after):
        record.step(run, step)
        if due(step.n, run.cadence.eval_every, run.cadence.steps):
            scores = evaluate(run, pulse=pulse)
            run.regularize.seen(scores)
            record.scores(run, step.n, scores)
        reason = pulse(step.n)
        if due(step.n, run.cadence.save_every, run.cadence.steps) or run.regularize.stopped or reason:
            record.save(run, step)
        if run.regularize.stopped:
            break
        if reason and step.n < run.cadence.steps:
            raise Stopped(f"{reason} after step {step.n}")
    n, val = record.recall(run)
    test = evaluate(run, "test", pulse)
    record.scores(run, n, test)
    return {**val, **test}


def due(n: int, every: int, steps: int) -> bool:
    """Whether something done every so many steps, and at the last one, is to be done after step n."""
    return n % every == 0 or n == steps


def evaluate(run: Run, split: str = "val", pulse: Pulse = unasked) -> Scores:
    """Scores on `val` or `test`, named `split/name`, of the weights that the run's regularizer wants scored.

    pulse: told of every batch, so that a long scoring is not taken for a hang.
    """

    def batches() -> Iterator[Batch]:
        for batch in scored(run, getattr(run.data, split)()):
            pulse(0)
            yield batch

    model = run.regularize.scored(run.model).eval()
    # not inference_mode: what a model caches while it is scored may be needed in training
    with torch.no_grad(), run.hardware.autocast():
        scores = run.task.score(model, batches())
    training_mode(run.model)
    return (scores if isinstance(scores, Scores) else Scores(scores)).of(split)


def training_mode(model: nn.Module) -> None:
    """`model.train()`, but normalisations below a module that is frozen whole keep their running statistics."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            for part in module.modules():
                if hasattr(part, "running_mean"):
                    part.eval()
