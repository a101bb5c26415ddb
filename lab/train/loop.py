"""The loop: `train` yields steps, `execute` consumes them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from torch import nn

from lab.distributed import collectives, replicas
from lab.errors import Stopped
from lab.metrics.scores import Scores
from lab.run import Model, Run, Step
from lab.train.batches import training_batches
from lab.train.micro_batches import backward_in_micro_batches, backward_whole, global_num_examples
from lab.train.phases import FreezeCheck, phase_starts, set_trainable
from lab.train.scoring import (
    StopCheck,
    evaluate,
    generalization_gap,
    never_stop,
    set_training_mode,
)
from lab.train.state import seed_dropout
from lab.train.throughput import ThroughputMeter

Trainer = Callable[[Run, int], Iterator[Step]]


def train(run: Run, after: int = 0) -> Iterator[Step]:
    """Stochastic gradient descent on the task's loss. Yields once per optimizer step.

    after: the last step already taken; `run` must hold the state saved at that step.
    """
    scaler, size, parameters = run.hardware.scaler, run.hardware.micro_batch, run.trainable
    alone = size is None and collectives.get_world_size() == 1
    backward = run.regularize.around(backward_whole if alone else partial(backward_in_micro_batches, size=size))
    begins, promise, examples = {after + 1, *phase_starts(run)}, None, None
    model: Model = run.model
    if after == 0:
        seed_dropout(run)
    for n, (batch, weight) in enumerate(training_batches(run, after), start=after + 1):
        if n in begins:
            set_trainable(run, n)
            set_training_mode(run.model)
            model = replicas.wrap_for_first_step(run.model, model)
            promise, examples = FreezeCheck(run), global_num_examples(batch, weight)
        loss = backward(run, model, batch, weight)
        scaler.unscale_(run.optimizer)
        run.regularize.penalise(run.model)
        norm = run.clip(parameters)
        scaler.step(run.optimizer)
        scaler.update()
        run.schedule.step()
        if promise:
            promise, model = promise.check(), replicas.wrap_ddp(model)
        for parameter in parameters:  # as optimizer.zero_grad, at a tenth of its cost on small models
            parameter.grad = None
        run.regularize.step(run.model)
        if is_due(n, run.cadence.log_every, run.cadence.steps):
            # on other steps nobody looks at them, and this process's own will do
            loss, norm = collectives.all_reduce_mean(loss), collectives.full_tensor(norm)
        yield Step(n, loss.detach(), norm, examples)


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


def execute(run: Run, record: Record, trainer: Trainer = train, pulse: StopCheck = never_stop) -> dict[str, float]:
    """Train to the end and score it: the validation set on the way, the test set once, with the final weights.

    pulse: asked after every step; a reason to stop saves the state and raises Stopped.
    Gives the final weights' scores, `split/name`: on val and test; on train, where there is a val, on as many examples
    as that has, and how far apart the two are, `gap/name`; and what a step cost on this machine, `hardware/name`.
    """
    after = record.restore(run)
    meter = ThroughputMeter(run.hardware)
    for step in () if run.regularize.stopped else trainer(run, after):
        record.step(run, step)
        meter.step(step)
        if is_due(step.n, run.cadence.eval_every, run.cadence.steps):
            with meter.paused():
                scores = evaluate(run, pulse=pulse)
                run.regularize.seen(scores)
                record.scores(run, step.n, scores)
        reason = pulse(step.n)
        if is_due(step.n, run.cadence.save_every, run.cadence.steps) or run.regularize.stopped or reason:
            with meter.paused():
                record.save(run, step)
        if run.regularize.stopped:
            break
        if reason and step.n < run.cadence.steps:
            raise Stopped(f"{reason} after step {step.n}")
    costs = meter.results()
    n, val, model = record.recall(run)
    test = evaluate(run, "test", pulse, model)
    apart = generalization_gap(run, val, model, pulse)
    record.scores(run, n, Scores({**test, **apart}, test.tables))
    return {**val, **test, **apart, **costs}


def is_due(n: int, every: int, steps: int) -> bool:
    """Whether something done every so many steps, and at the last one, is to be done after step n."""
    return n % every == 0 or n == steps
