"""The loop: `train` yields steps, `execute` consumes them."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import nn

from lab.distributed import collectives
from lab.errors import Stopped
from lab.metrics.scores import Evaluation, signature_texts
from lab.run import Run, Step
from lab.train.batches import training_batches
from lab.train.micro_batches import choose_backward
from lab.train.phases import Phases
from lab.train.scoring import StopCheck, evaluate, generalization_gap, never_stop
from lab.train.state import seed_dropout
from lab.train.throughput import ThroughputMeter

Trainer = Callable[[Run, int], Iterator[Step]]


def train(run: Run, after: int = 0) -> Iterator[Step]:
    """Stochastic gradient descent on the task's loss. Yields once per optimizer step.

    after: the last step already taken; `run` must hold the state saved at that step.
    """
    phases, backward = Phases(run, after), run.regularize.wrap_backward(choose_backward(run.hardware))
    scaler, parameters = run.hardware.scaler, run.trainable
    if after == 0:
        seed_dropout(run)
    for n, batch in enumerate(training_batches(run, after), start=after + 1):
        model = phases.enter(n)
        loss = backward(run.task, run.hardware, model, batch)
        scaler.unscale_(run.optimizer)
        run.regularize.add_to_gradients(run.model)
        norm = run.clip(parameters)
        scaler.step(run.optimizer)
        scaler.update()
        run.schedule.step()
        phases.end_step()
        for parameter in parameters:  # as optimizer.zero_grad, at a tenth of its cost on small models
            parameter.grad = None
        run.regularize.step(run.model)
        if is_due(n, run.cadence.log_every, run.cadence.steps):
            # other steps are not logged, so this rank's own values suffice there
            loss, norm = collectives.all_reduce_mean(loss), collectives.full_tensor(norm)
        yield Step(n, loss.detach(), norm, batch.num_examples)


class Recorder(Protocol):
    """Saves a run's metrics, scores and state, as lab.record.record.Record does."""

    def restore(self, run: Run, /) -> int:
        """Restore `run` to its newest saved state. Returns the step of that state; 0 if nothing was saved."""
        ...

    def step(self, run: Run, step: Step, /) -> None: ...
    def scores(self, run: Run, n: int, scores: Evaluation, /) -> None: ...
    def save(self, run: Run, step: Step, /) -> None: ...

    def recall(self, run: Run, /) -> tuple[int, Evaluation, nn.Module]:
        """The step of the run's final weights, their validation scores, and the model that holds them."""
        ...


def execute(run: Run, record: Recorder, trainer: Trainer = train, stop: StopCheck = never_stop) -> dict[str, Any]:
    """Train to the end, scoring on the validation set along the way and on the test set once, with the final weights.

    stop: function called after every step; if it returns a reason to stop, the state is saved and Stopped is raised.
    Returns the scores of the final weights as `split/name`, on val and test. If there is a validation set, also the
    scores on as many training examples as it has, `train/name`, and train minus val, `gap/name`. `hardware/name` are
    the speed and memory of a step on this machine. `name_signature` is a text, how the score `name` is computed.
    """
    after = record.restore(run)
    meter, pause = ThroughputMeter(run.hardware), Pause(run.cadence.save_pause)
    for step in () if run.regularize.stopped else trainer(run, after):
        record.step(run, step)
        meter.step(step)
        if is_due(step.n, run.cadence.eval_every, run.cadence.steps):
            with meter.paused():
                scores = evaluate(run, stop=stop)
                run.regularize.on_scores(scores)
                record.scores(run, step.n, scores)
        reason = stop(step.n)
        ends = run.regularize.stopped or reason or step.n == run.cadence.steps
        if ends or (step.n % run.cadence.save_every == 0 and pause.is_over()):
            with meter.paused():
                record.save(run, step)
                pause.begin()
        if run.regularize.stopped:
            break
        if reason and step.n < run.cadence.steps:
            raise Stopped(f"{reason} after step {step.n}")
    costs = meter.results()
    n, val, model = record.recall(run)
    test = evaluate(run, "test", stop, model)
    gap = generalization_gap(run, val, model, stop)
    record.scores(run, n, test | gap)
    return {**val, **test, **gap, **costs, **signature_texts(val | test | gap)}


class Pause:
    """A time in which nothing is saved, the same on every rank.  seconds: its length; 0 for none."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.begin()

    def begin(self) -> None:
        self.until = time.monotonic() + self.seconds

    def is_over(self) -> bool:
        return not self.seconds or collectives.broadcast(time.monotonic() >= self.until)


def is_due(n: int, every: int, steps: int) -> bool:
    """Whether an action that recurs every `every` steps, and after the last of `steps`, is due after step n."""
    return n % every == 0 or n == steps
