"""The checkpoints of a run: last.pt and previous.pt with all its state, best.pt with the weights that scored best."""

import time
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lab.distributed import collectives, shards
from lab.errors import CorruptCheckpoint
from lab.metrics.scores import Evaluation
from lab.record.checkpoints import load_checkpoint, load_newest_checkpoint, save_checkpoint
from lab.run import Run
from lab.train.scoring import final_model, scored_model
from lab.train.state import restore_snapshot, take_snapshot


@dataclass
class Checkpointer:
    """Saves a run's state below `directory` and restores it.

    writes: whether this rank writes the files; all ranks together gather the state to write.
    best: the best monitored score so far, its step, and all scores of that step.  last: step and scores of the last
    evaluation.  problems: reasons why existing checkpoints could not be used.
    """

    directory: Path
    writes: bool = True
    best: dict[str, Any] = field(default_factory=lambda: {"score": None, "step": 0, "scores": {}})
    last: dict[str, Any] = field(default_factory=lambda: {"step": 0, "scores": {}})
    problems: list[str] = field(default_factory=list)
    lines: int = 0  # lines of metrics.jsonl before the step of the restored checkpoint, as it says
    unwritten: dict[str, Any] = field(default_factory=dict)  # the content of best.pt, where that is still to be written
    written: float = field(default_factory=time.monotonic)  # when best.pt was written

    def restore(self, run: Run) -> int:
        """Bring `run` to its newest sound checkpoint. Returns the checkpoint's step, 0 where there is none.

        Raises CorruptCheckpoint where this rank read another step than rank 0.
        """
        newest = [self.directory / "last.pt", self.directory / "previous.pt"]
        state, self.problems = load_newest_checkpoint(newest)
        step = 0
        if state and (problem := self.problem_with_best(run, state)):
            self.problems.append(problem)
            state = None
        if state:
            restore_snapshot(run, state["run"])
            self.best, self.last, step = state["best"], state["last"], state["step"]
            self.lines = state.get("lines", 0)
            self.best = self.read_later_best(step) or self.best
        if (first := collectives.broadcast(step)) != step:
            raise CorruptCheckpoint(f"{self.directory}: rank 0 read step {first} from it, this rank step {step}")
        return step

    def problem_with_best(self, run: Run, state: dict[str, Any]) -> str | None:
        """Why a run cannot resume from this state: the best weights that it names are missing. None where it can.

        Best weights of a later step than the state are fine, as the resumed run reaches that step again.
        """
        best_step = state["best"]["step"]
        if run.final != "best" or not best_step:
            return None
        try:
            step = load_checkpoint(self.directory / "best.pt")["step"]
        except CorruptCheckpoint as error:
            return str(error)
        return None if step == best_step or step > state["step"] else f"best.pt is of step {step}, not {best_step}"

    def read_later_best(self, step: int) -> dict[str, Any] | None:
        """The best score in best.pt, where it is of a step after this one, saved before the run was killed; else None.
        A run that resumes in other bits might not reach that score again."""
        try:
            best = load_checkpoint(self.directory / "best.pt")
        except CorruptCheckpoint:
            return None
        return {name: best[name] for name in ("score", "step", "scores")} if best["step"] > step else None

    def keep_scores(self, run: Run, n: int, scores: Evaluation) -> None:
        """Keep the scores of the monitored split after step n; where they are the best so far, keep the weights too.

        They are written to best.pt at once, or within the pause between checkpoints later: with the next one."""
        monitor = run.monitor.resolve(scores)
        self.last = {"step": n, "scores": dict(scores)}
        score = scores[monitor.name]
        # equal scores: the later weights count as better, as they have trained longer
        if monitor.is_better(score, self.best["score"]) or score == self.best["score"]:
            self.best = {"score": score, "step": n, "scores": dict(scores)}
            weights = shards.gather_state(scored_model(run).state_dict())
            self.unwritten = {"model": weights, **self.best}
            if time.monotonic() - self.written < run.cadence.save_pause:
                self.unwritten = deepcopy(self.unwritten)  # the next step changes these weights
            else:
                self.write_best()

    def write_best(self) -> None:
        """Write the best weights, where they are not yet in best.pt."""
        if self.unwritten:
            self.write("best.pt", self.unwritten)
            self.unwritten, self.written = {}, time.monotonic()

    def save(self, run: Run, n: int, lines: int) -> None:
        """Save all of the run's state after step n.  lines: number of lines of metrics.jsonl before it."""
        self.write_best()  # which the state names
        state = {"run": take_snapshot(run), "step": n, "lines": lines, "best": self.best, "last": self.last}
        ends = run.regularize.stopped or n == run.cadence.steps
        if ends and (model := scored_model(run)) is not run.model:
            # tensors that `run` has too are not written twice: torch.save writes a storage once
            state["scored"] = model.state_dict()
        self.write("last.pt", state, previous="previous.pt")

    def write(self, name: str, state: dict[str, Any], previous: str | None = None) -> None:
        """Write a checkpoint.  previous: name under which the checkpoint that it replaces is kept; None: it is not
        kept."""
        if self.writes:
            kept = self.directory / previous if previous else None
            save_checkpoint(self.directory / name, state, keep=kept)

    def recall(self, run: Run) -> tuple[int, Evaluation, nn.Module]:
        """The step and the validation scores of the final weights, and the model that holds them."""
        chosen, weights = self.last, None
        self.write_best()
        collectives.broadcast(None)  # wait until rank 0 has written the best weights
        if run.final == "best" and self.best["step"] not in (0, self.last["step"]):
            best = load_checkpoint(self.directory / "best.pt")
            if best["step"] != self.best["step"]:
                raise CorruptCheckpoint(f"best.pt is of step {best['step']}, the best was {self.best['step']}")
            chosen, weights = self.best, best["model"]
        return chosen["step"] or run.cadence.steps, Evaluation(chosen["scores"]), final_model(run, weights)
