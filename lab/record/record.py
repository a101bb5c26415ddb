"""`Record`: writes the files of a run while it trains."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from lab.errors import Diverged
from lab.metrics.names import is_overall, split_of, with_split
from lab.metrics.scores import Evaluation, Picture
from lab.record.checkpointer import Checkpointer
from lab.record.console import Console
from lab.record.metrics_files import MetricsFiles, NoMetricsFiles, Writer
from lab.record.run_facts import mark_inexact
from lab.record.run_parts import check_or_write_parts
from lab.record.tensorboard import NoTensorBoard
from lab.run import Cadence, Run, Step
from lab.train.loop import is_due

PRINTED_SCORES = 6  # of a split; all of them are in the files


class Progress(Protocol):
    """Shows the progress of a run, as lab.record.console.Console does, or relays it to another process."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *error: object) -> None: ...
    def advance(self, step: int, epoch: float, values: dict[str, Any], /) -> None: ...
    def line(self, step: int, epoch: float, values: dict[str, Any], /) -> None: ...
    def note(self, text: str, /) -> None: ...


class Record:
    """Writes metrics.jsonl, TensorBoard events and checkpoints below `directory`, and shows progress.

    console: display of the progress; None: no display.  writer: makes the writer of events, after the files are cut
    back to the step from which the run continues.  introduce: function called with this record before the first step of
    a new run.  silent: write nothing, for ranks other than 0, which only take part in collective operations.
    """

    def __init__(
        self,
        directory: Path,
        console: Progress | None = None,
        writer: Callable[[Path], Writer] = NoTensorBoard,
        introduce: Callable[["Record"], None] = lambda record: None,
        silent: bool = False,
    ):
        self.console: Progress = console or Console(steps=0, quiet=True)
        self.directory, self.introduce, self.writes = directory, introduce, not silent
        self.checkpointer = Checkpointer(directory / "checkpoints", writes=not silent)
        self.metrics = NoMetricsFiles() if silent else MetricsFiles(directory, writer)

    @property
    def writer(self) -> Writer:
        return self.metrics.writer

    def restore(self, run: Run) -> int:
        """Bring `run` to its newest sound checkpoint, and cut the files back to that step. Returns the step.

        Where there is a manifest, the code that wrote it has checked that the directory holds this run. Without one,
        the run's parts are compared with those in parts.json. Raises Refused where they differ.
        """
        if self.writes and not (self.directory / "manifest.json").exists():
            check_or_write_parts(self.directory, run)
        step = self.checkpointer.restore(run)
        for problem in self.checkpointer.problems:
            lost = max(self.metrics.last_step() - step, steps_to_save(run.cadence, step))
            self.console.note(f"{problem}; lost {lost} steps at least, going on from step {step}")
        self.metrics.open_at(step)
        if self.writes and (lacking := self.checkpointer.lines - self.metrics.count_lines(step)) > 0:
            self.note_lost_lines(lacking)
        if step == 0:
            self.introduce(self)
        return step

    def note_lost_lines(self, lacking: int) -> None:
        """Say that metrics.jsonl lacks lines that were written before the restored checkpoint, and mark the run."""
        lines = "line that was" if lacking == 1 else "lines that were"
        text = f"metrics.jsonl lacks {lacking} {lines} written before the checkpoint"
        self.console.note(text)
        if (self.directory / "manifest.json").exists():
            mark_inexact(self.directory, text)

    def step(self, run: Run, step: Step) -> None:
        """Write a step's loss, learning rates and gradient norm, on logging steps. Raises Diverged where a value is not
        finite."""
        if not is_due(step.n, run.cadence.log_every, run.cadence.steps):
            return
        values = {"train/loss": read_finite_loss(step), "train/lr": run.optimizer.param_groups[0]["lr"]}
        for number, group in enumerate(run.optimizer.param_groups[1:], start=1):
            values[f"train/lr_{number}"] = group["lr"]
        if step.norm is not None:
            norm = float(step.norm)
            if math.isfinite(norm):
                values["train/grad_norm"] = norm
            elif not run.hardware.scaler.is_enabled():  # an enabled scaler skips such a step
                raise Diverged(f"train/grad_norm is {norm} at step {step.n}")
        epoch = run.cadence.epoch(step.n)
        self.metrics.write(step.n, epoch, {name: float(value) for name, value in values.items()})
        self.console.advance(step.n, epoch, {"loss": values["train/loss"], "lr": values["train/lr"]})

    def scores(self, run: Run, n: int, scores: Evaluation) -> None:
        """Write the scores of a split after step n; where they are the best so far, save the weights.

        Raises Diverged where a score is not finite.
        """
        if not scores.is_finite():
            name = next(name for name, value in scores.items() if not math.isfinite(value))
            raise Diverged(f"{name} is {scores[name]} after step {n}")
        epoch = run.cadence.epoch(n)
        self.metrics.write(n, epoch, dict(scores))
        is_shown = is_first_in_tenth(run.cadence, n)
        for name, picture in scores.pictures.items():
            if split_of(name) == "test" or is_shown:
                self.metrics.write_picture(n, name, picture)
        for name, text in scores.texts.items():
            if split_of(name) == "test" or is_shown:
                self.metrics.write_markdown(n, name, text)
        for name, content in scores.files.items():
            if name.startswith("test_"):
                self.metrics.write_file(name, content)
        self.console.line(n, epoch, self.headline(run, scores))
        if run.monitor.watches(scores):
            self.checkpointer.keep_scores(run, n, scores)

    def headline(self, run: Run, scores: Evaluation) -> dict[str, float]:
        """The scores to print: the first overall ones on val and test, and the gap of the monitored score."""
        val = Evaluation(self.checkpointer.last["scores"], monitor=scores.monitor)
        gap = with_split(run.monitor.choose_name(val), "gap") if val else None
        overall = [name for name in scores if is_overall(name)]
        shown = [name for split in ("val", "test") for name in pick_split(overall, split)[:PRINTED_SCORES]]
        return {name: scores[name] for name in (*shown, gap) if name is not None and name in scores}

    def save(self, run: Run, step: Step) -> None:
        """Save a checkpoint after a step. Raises Diverged where the step's loss is not finite."""
        read_finite_loss(step)
        self.checkpointer.save(run, step.n, self.metrics.count_lines(step.n))

    def recall(self, run: Run) -> tuple[int, Evaluation, nn.Module]:
        """The step and the validation scores of the final weights, and the model that holds them."""
        return self.checkpointer.recall(run)

    def draw_batch(self, run: Run, batch: Any) -> None:
        """Write the pictures that the task draws of a training batch, where it draws any."""
        draw: Callable[[Any], Mapping[str, Picture]] = getattr(run.task, "pictures", lambda batch: {})
        for tag, picture in draw(batch).items():
            self.metrics.write_picture(0, tag, picture)

    def close(self) -> None:
        self.metrics.close()
        self.checkpointer.write_best()


def pick_split(names: list[str], split: str) -> list[str]:
    return [name for name in names if split_of(name) == split]


def steps_to_save(cadence: Cadence, step: int) -> int:
    """The number of steps from `step` to the next checkpoint, which a damaged checkpoint had reached at least."""
    return min(cadence.save_every - step % cadence.save_every, cadence.steps - step)


def is_first_in_tenth(cadence: Cadence, n: int) -> bool:
    """Whether step n is the first scored step of its tenth of the run. A picture takes 10 ms; ten a run are enough."""
    return n * 10 // cadence.steps > (n - cadence.eval_every) * 10 // cadence.steps


def read_finite_loss(step: Step) -> float:
    """The loss of a step as a number. Raises Diverged where it is not finite."""
    loss = step.loss.item()  # waits for the device; only on logging and saving steps
    if not math.isfinite(loss):
        raise Diverged(f"train/loss is {loss} after step {step.n}")
    return loss
