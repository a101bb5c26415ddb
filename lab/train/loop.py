"""The loop: `train` yields steps, `execute` consumes them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lab import parallel
from lab.metrics import Scores
from lab.names import overall
from lab.run import Batch, Model, Run, Step
from lab.streams import seeded, stream
from lab.train.feed import feed, of_training, one_epoch, scored
from lab.train.meter import Meter
from lab.train.micro import at_once, counted_in_all, in_parts
from lab.train.phases import Promise, phases, thaw
from lab.train.state import start_dropout

Trainer = Callable[[Run, int], Iterator[Step]]
Pulse = Callable[[int], str | None]


def train(run: Run, after: int = 0) -> Iterator[Step]:
    """Stochastic gradient descent on the task's loss. Yields once per optimizer step.

    after: the last step already taken; `run` must hold the state saved at that step.
    """
    scaler, size, parameters = run.hardware.scaler, run.hardware.micro_batch, run.trainable
    alone = size is None and parallel.world() == 1
    backward = run.regularize.around(at_once if alone else partial(in_parts, size=size))
    begins, promise, examples = {after + 1, *phases(run)}, None, None
    model: Model = run.model
    if after == 0:
        start_dropout(run)
    for n, (batch, weight) in enumerate(feed(run, after), start=after + 1):
        if n in begins:
            thaw(run, n)
            training_mode(run.model)
            model = parallel.shared(run.model, model)
            promise, examples = Promise(run), counted_in_all(batch, weight)
        loss = backward(run, model, batch, weight)
        scaler.unscale_(run.optimizer)
        run.regularize.penalise(run.model)
        norm = run.clip(parameters)
        scaler.step(run.optimizer)
        scaler.update()
        run.schedule.step()
        if promise:
            promise, model = promise.check(), parallel.settled(model)
        for parameter in parameters:  # as optimizer.zero_grad, at a tenth of its cost on small models
            parameter.grad = None
        run.regularize.step(run.model)
        if due(n, run.cadence.log_every, run.cadence.steps):
            # on other steps nobody looks at them, and this process's own will do
            loss, norm = parallel.mean(loss), parallel.in_full(norm)
        yield Step(n, loss.detach(), norm, examples)


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

    def recall(self, run: Run, /) -> tuple[int, Scores, nn.Module]:
        """The step of the run's final weights, their validation scores, and the model that has them."""
        ...


class Stopped(Exception):
    """A run was asked to stop; its state is saved, and it goes on from there."""


def execute(run: Run, record: Record, trainer: Trainer = train, pulse: Pulse = unasked) -> dict[str, float]:
    """Train to the end and score it: the validation set on the way, the test set once, with the final weights.

    pulse: asked after every step; a reason to stop saves the state and raises Stopped.
    Gives the final weights' scores, `split/name`: on val and test; on train, where there is a val, on as many examples
    as that has, and how far apart the two are, `gap/name`; and what a step cost on this machine, `hardware/name`.
    """
    after = record.restore(run)
    meter = Meter(run.hardware)
    for step in () if run.regularize.stopped else trainer(run, after):
        record.step(run, step)
        meter.step(step)
        if due(step.n, run.cadence.eval_every, run.cadence.steps):
            with meter.paused():
                scores = evaluate(run, pulse=pulse)
                run.regularize.seen(scores)
                record.scores(run, step.n, scores)
        reason = pulse(step.n)
        if due(step.n, run.cadence.save_every, run.cadence.steps) or run.regularize.stopped or reason:
            with meter.paused():
                record.save(run, step)
        if run.regularize.stopped:
            break
        if reason and step.n < run.cadence.steps:
            raise Stopped(f"{reason} after step {step.n}")
    costs = meter.results()
    n, val, model = record.recall(run)
    test = evaluate(run, "test", pulse, model)
    apart = generalisation(run, val, model, pulse)
    record.scores(run, n, Scores({**test, **apart}, test.tables))
    return {**val, **test, **apart, **costs}


def generalisation(run: Run, val: Scores, model: nn.Module, pulse: Pulse = unasked) -> dict[str, float]:
    """`train/name` on as many training examples as validate, and `gap/name`: train minus val, the scores of `val`.

    The more a model overfits, the further above 0 is the gap of an accuracy, and the further below 0 that of a loss.
    Nothing is augmented: what is compared differs only in having been trained on.
    """
    train = evaluate(run, "train", pulse, model) if val else Scores({})
    found = {name: value for name, value in train.items() if overall(name)}
    names = [name.removeprefix("train/") for name in found]
    return found | {
        f"gap/{name}": found[f"train/{name}"] - val[f"val/{name}"] for name in names if f"val/{name}" in val
    }


def due(n: int, every: int, steps: int) -> bool:
    """Whether something done every so many steps, and at the last one, is to be done after step n."""
    return n % every == 0 or n == steps


def evaluate(run: Run, split: str = "val", pulse: Pulse = unasked, model: nn.Module | None = None) -> Scores:
    """Scores on `val`, `test` or a part of `train`, named `split/name`, of `model`, or else of the weights that the
    run's regularizer wants scored.

    pulse: told of every batch, so that a long scoring is not taken for a hang.
    """

    def batches() -> Iterator[Batch]:
        for batch in scored(run, of_training(run) if split == "train" else getattr(run.data, split)()):
            pulse(0)
            yield batch

    model = (model or scored_model(run, pulse)).eval()
    parallel.first_buffers(model)
    # not inference_mode: what a model caches while it is scored may be needed in training
    with torch.no_grad(), run.hardware.autocast():
        scores = run.task.score(model, batches())
    training_mode(run.model)
    # every process scores all of it, and goes by what the first one found: a device may round in another order
    return parallel.from_first((scores if isinstance(scores, Scores) else Scores(scores)).of(split))


def scored_model(run: Run, pulse: Pulse = unasked) -> nn.Module:
    """The weights that the run's regularizer wants scored, with running statistics that are theirs."""
    return run.regularize.scored(run.model, partial(renew, run, pulse))


def renew(run: Run, pulse: Pulse, model: nn.Module) -> None:
    """Make the running statistics of `model`, an average of weights that has seen no batch, the mean over an epoch of
    training batches, not augmented and without dropout (Izmailov et al. 2018, arXiv:1803.05407, sec. 3.2).

    Normalisations that the strategy froze keep theirs. Costs the forward passes of an epoch, of a data set without
    `steps_per_epoch` those of the whole run; leaves no trace in the run's randomness.
    """
    training_mode(run.model)
    own = {name for name, part in run.model.named_modules() if isinstance(part, _BatchNorm) and part.training}
    moving = [part for name, part in model.named_modules() if isinstance(part, _BatchNorm) and name in own]
    momenta = [part.momentum for part in moving]
    model.eval()
    for part in moving:
        part.reset_running_stats()
        part.momentum = None  # the mean of all batches
        part.train()
    # a data set of one's own may draw while it is read
    with seeded(stream(run.seed, "statistics")), torch.no_grad(), run.hardware.autocast():
        for batch in scored(run, one_epoch(run)) if moving else ():
            run.task.loss(model, batch)
            pulse(0)
    for part, momentum in zip(moving, momenta, strict=True):
        part.momentum = momentum
    model.eval()


def training_mode(model: nn.Module) -> None:
    """`model.train()`, but normalisations below a module that is frozen whole keep their running statistics, unless the
    strategy has set `moving_statistics` on the model."""
    model.train()
    if getattr(model, "moving_statistics", False):
        return
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            for part in module.modules():
                if hasattr(part, "running_mean"):
                    part.eval()
