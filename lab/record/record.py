"""`Record`: what a run leaves in its directory while it trains."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TextIO

from torch import nn

from lab import errors
from lab.distributed import collectives, shards
from lab.errors import Diverged
from lab.metrics.names import is_overall
from lab.metrics.scores import Scores, are_finite
from lab.record import checkpoints, pictures
from lab.record.console import Console
from lab.record.files import write_atomically
from lab.record.tensorboard import NoTensorBoard, truncate_events
from lab.run import Cadence, Run, Step
from lab.train.loop import is_due
from lab.train.scoring import scored_model
from lab.train.state import restore_snapshot, take_snapshot


class Writer(Protocol):
    """As lab.record.tensorboard.TensorBoard."""

    def scalars(self, step: int, values: dict[str, float], /) -> None: ...
    def image(self, step: int, tag: str, png: bytes, size: tuple[int, int], /) -> None: ...
    def hparams(self, trial: str, values: dict[str, Any], /) -> None: ...
    def close(self) -> None: ...


class Progress(Protocol):
    """As lab.record.console.Console: who is told how a run goes."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *error: object) -> None: ...
    def advance(self, step: int, epoch: float, values: dict[str, Any], /) -> None: ...
    def line(self, step: int, epoch: float, values: dict[str, Any], /) -> None: ...
    def note(self, text: str, /) -> None: ...


class Record:
    """Writes metrics.jsonl, TensorBoard events and checkpoints below `directory`, and shows progress.

    writer: opened once the files are at the step from which the run goes on.  introduce: called then, where that is the
    beginning.  best: the best monitored score so far, its step and the scores that came with it.  silent: write
    nothing, but take part in what all processes of a run do together, of which the first one writes.
    """

    def __init__(
        self,
        directory: Path,
        console: Progress | None = None,
        writer: Callable[[Path], Writer] = NoTensorBoard,
        introduce: Callable[["Record"], None] = lambda record: None,
        silent: bool = False,
    ):
        self.directory, self.silent = directory, silent
        self.console: Progress = console or Console(steps=0, quiet=True)
        if not silent:
            directory.mkdir(parents=True, exist_ok=True)
        self.open_writer, self.introduce = writer, introduce
        self.writer: Writer = NoTensorBoard(directory)
        self.best: dict[str, Any] = {"score": None, "step": 0, "scores": {}}
        self.last: dict[str, Any] = {"step": 0, "scores": {}}
        self.metrics: TextIO | None = None
        self.lost: list[str] = []  # checkpoints that could not be read

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    def restore(self, run: Run) -> int:
        """Bring `run` to its newest sound checkpoint, and the files to that step; give the step."""
        newest = [self.checkpoints / "last.pt", self.checkpoints / "previous.pt"]
        state, self.lost = checkpoints.load_newest_checkpoint(newest)
        step = 0
        if state and (problem := self.without_best(run, state)):
            self.lost.append(problem)
            state = None
        if state:
            restore_snapshot(run, state["run"])
            self.best, self.last, step = state["best"], state["last"], state["step"]
            self.best = self.later_best(step) or self.best
        if (first := collectives.broadcast(step)) != step:
            raise errors.CorruptCheckpoint(f"{self.checkpoints}: read twice, it is of step {first} and of step {step}")
        if not self.silent:
            self.begin(step)
        return step

    def begin(self, step: int) -> None:
        """Bring the files to a step, and open what is written to."""
        if self.lost:
            reached = last_logged_step(self.directory / "metrics.jsonl")
            for problem in self.lost:
                self.console.note(f"{problem}; lost {max(0, reached - step)} steps, going on from step {step}")
        truncate_metrics(self.directory / "metrics.jsonl", step)
        truncate_events(self.directory, step)
        self.writer = self.open_writer(self.directory)
        if step == 0:
            self.introduce(self)

    def later_best(self, step: int) -> dict[str, Any] | None:
        """The best of a step that is still to come, kept before the run was killed. A run that resumes exactly comes by
        it again; one that does not would miss it."""
        try:
            found = checkpoints.load_checkpoint(self.checkpoints / "best.pt")
        except errors.CorruptCheckpoint:
            return None
        return {name: found[name] for name in ("score", "step", "scores")} if found["step"] > step else None

    def without_best(self, run: Run, state: dict[str, Any]) -> str | None:
        """Why a run cannot go on from this state for want of its best weights so far; None where it can.

        Those of a later step are fine: on the way there the run comes by that step again.
        """
        wanted = state["best"]["step"]
        if run.final != "best" or not wanted:
            return None
        try:
            found = checkpoints.load_checkpoint(self.checkpoints / "best.pt")["step"]
        except errors.CorruptCheckpoint as error:
            return str(error)
        return None if found == wanted or found > state["step"] else f"best.pt is of step {found}, not {wanted}"

    def step(self, run: Run, step: Step) -> None:
        if not self.silent and is_due(step.n, run.cadence.log_every, run.cadence.steps):
            values = {"train/loss": read_finite_loss(step), "train/lr": run.optimizer.param_groups[0]["lr"]}
            for number, group in enumerate(run.optimizer.param_groups[1:], start=1):
                values[f"train/lr_{number}"] = group["lr"]
            if step.norm is not None:
                norm = float(step.norm)
                if math.isfinite(norm):
                    values["train/grad_norm"] = norm
                elif not run.hardware.scaler.is_enabled():  # which skips such a step and goes on
                    raise Diverged(f"train/grad_norm is {norm} at step {step.n}")
            self.write(run, step.n, {name: float(value) for name, value in values.items()})
            self.console.advance(step.n, run.cadence.epoch(step.n), {"loss": values["train/loss"]})

    def scores(self, run: Run, n: int, scores: Scores) -> None:
        """Keep the scores of a split after step n, and where they are the best so far, the weights."""
        if not are_finite(scores):
            bad = next(name for name, value in scores.items() if not math.isfinite(value))
            raise Diverged(f"{bad} is {scores[bad]} after step {n}")
        self.write(run, n, scores)
        for name, table in scores.tables.items():
            if name.startswith("test/") or is_first_in_tenth(run.cadence, n):
                self.table(run, n, name, table)
        gap = run.monitor.name.replace("val/", "gap/", 1)
        few = {name: value for name, value in scores.items() if is_overall(name) and (name == gap or is_held_out(name))}
        self.console.line(n, run.cadence.epoch(n), few)
        if run.monitor.name.split("/")[0] in {name.split("/")[0] for name in scores}:
            self.last = {"step": n, "scores": dict(scores)}
            self.keep_best(run, n, scores)

    def keep_best(self, run: Run, n: int, scores: Scores) -> None:
        if run.monitor.name not in scores:
            raise ValueError(f"monitor={run.monitor.name} is not among the scores: {', '.join(scores)}")
        score = scores[run.monitor.name]
        # of equal scores the later one: it has trained longer
        if run.monitor.better(score, self.best["score"]) or score == self.best["score"]:
            self.best = {"score": score, "step": n, "scores": dict(scores)}
            weights = shards.gather_state(scored_model(run).state_dict())
            self.keep("best.pt", {"model": weights, **self.best})

    def save(self, run: Run, step: Step) -> None:
        read_finite_loss(step)
        state = {"run": take_snapshot(run), "step": step.n, "best": self.best, "last": self.last}
        ends = run.regularize.stopped or step.n == run.cadence.steps
        if ends and (model := scored_model(run)) is not run.model:
            state["scored"] = model.state_dict()  # no copy of what is in `run`: a storage is written once
        self.keep("last.pt", state, before="previous.pt")

    def keep(self, name: str, state: dict[str, Any], before: str | None = None) -> None:
        """Write a checkpoint.  before: the name that the one before keeps."""
        if not self.silent:
            checkpoints.save_checkpoint(
                self.checkpoints / name, state, keep=self.checkpoints / before if before else None
            )

    def recall(self, run: Run) -> tuple[int, Scores, nn.Module]:
        """The step and the validation scores of the final weights, and the model that has them."""
        chosen, model = self.last, scored_model(run)
        collectives.broadcast(None)  # who writes the best weights has done so
        if run.final == "best" and self.best["step"] not in (0, self.last["step"]):
            best = checkpoints.load_checkpoint(self.checkpoints / "best.pt")
            if best["step"] != self.best["step"]:
                raise errors.CorruptCheckpoint(f"best.pt is of step {best['step']}, the best was {self.best['step']}")
            shards.load_model_state(model, best["model"])
            chosen = self.best
        return chosen["step"] or run.cadence.steps, Scores(chosen["scores"]), model

    def close(self) -> None:
        self.writer.close()
        if self.metrics:
            self.metrics.close()

    def write(self, run: Run, n: int, values: dict[str, float]) -> None:
        if self.silent:
            return
        if self.metrics is None:  # kept open: opening costs more than writing, and shows on small models
            self.metrics = open(self.directory / "metrics.jsonl", "a")
        line = json.dumps({"step": n, "epoch": run.cadence.epoch(n), **values}, allow_nan=False)
        self.metrics.write(line + "\n")
        self.metrics.flush()
        self.writer.scalars(n, values)

    def table(self, run: Run, n: int, name: str, table: list[list[int]]) -> None:
        if self.silent:
            return
        classes = getattr(run.task, "classes", None) or [str(number) for number in range(len(table))]
        picture = pictures.draw_confusion_matrix(table, classes)
        self.writer.image(n, name, pictures.encode_png(picture), picture.size)

    def inputs(self, batch: Any) -> None:
        """A grid of a training batch's images, as the model sees them, where it has any."""
        picture = pictures.image_grid(batch[0]) if isinstance(batch, tuple | list) else None
        if picture:
            self.writer.image(0, "inputs", pictures.encode_png(picture), picture.size)


def is_held_out(name: str) -> bool:
    """Whether a score is of a split that a run is judged by."""
    return name.startswith(("val/", "test/"))


def is_first_in_tenth(cadence: Cadence, n: int) -> bool:
    """Whether step n is the first to be scored in its tenth of the run: a picture takes 10 ms, ten are enough."""
    return n * 10 // cadence.steps > (n - cadence.eval_every) * 10 // cadence.steps


def read_finite_loss(step: Step) -> float:
    loss = step.loss.item()  # waits for the device; only on logging and saving steps
    if not math.isfinite(loss):
        raise Diverged(f"train/loss is {loss} after step {step.n}")
    return loss


def last_logged_step(path: Path) -> int:
    """The last step of which metrics.jsonl tells; 0 where it tells of none."""
    try:
        lines = path.read_text().splitlines(keepends=True)
    except OSError:
        return 0
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines of later steps, of the end that is still to come, and a last line that is torn."""
    path.touch()
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    kept = [line for line in whole if json.loads(line)["step"] <= step and '"test/' not in line]
    if kept != lines:
        write_atomically(path, "".join(kept).encode())
