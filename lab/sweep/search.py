"""The trials of a searched sweep: asked for as slots fall free, told what they scored, kept in a file.

A grid, random search, or TPE (Bergstra et al. 2011, NeurIPS 24), and the early stopping of ASHA (Li et al. 2018,
arXiv:1810.05934, algorithm 2), by Optuna, which is an extra. Where the paper pauses a trial, Optuna ends it for good.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from lab.config.search_space import DIRECTIONS, Interval, SearchAxis, SearchSettings

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage


@dataclass(frozen=True)
class Trial:
    """overrides: what to add to the command line.  values: of the objectives, once it is done."""

    number: int
    overrides: tuple[str, ...]
    values: tuple[float, ...] = ()


class Search:
    """The trials in one file. One process at a time has it open, and may die at any moment.

    Where all axes are discrete, random and tpe may propose the same values twice, even at the same time.
    """

    def __init__(self, storage: Path, axes: Mapping[str, SearchAxis], settings: SearchSettings):
        """Opens `storage`, or creates it. Raises ValueError where it holds another search.

        axes: what each key of an override spans; values to choose among are spelled as in an override.
        """
        check_search(axes, settings)
        optuna = import_optuna(settings)
        kept = open_storage(storage)
        self.settings = settings
        self.study = optuna.create_study(
            storage=kept,
            study_name="search",
            directions=[DIRECTIONS[direction] for direction in settings.directions],
            pruner=make_pruner(settings),
            load_if_exists=True,
        )
        about = describe_search(axes, settings)
        earlier = self.study.user_attrs.get("about")
        if earlier is None:
            self.study.set_user_attr("about", about)
        elif earlier != about:
            raise ValueError(
                f"{storage} holds another search: {describe_changes(earlier, about)}; give it a new directory"
            )
        # in the order in which they were first given: the numbers of a grid depend on it
        self.axes = {key: axes[key] for key in earlier or about if key in axes}
        self.total = settings.trials or math.prod(len(choices) for choices in discrete_axes(self.axes))
        self.running: dict[int, optuna.Trial] = {}
        study_id = kept.get_study_id_from_name("search")
        for number in self._numbers("RUNNING"):  # a process that died had asked for them
            trial_id = kept.get_trial_id_from_study_id_trial_number(study_id, number)
            kept.set_trial_state_values(trial_id, optuna.trial.TrialState.WAITING)

    def ask(self) -> Trial | None:
        """The next trial, or None when all have been asked for.

        First come, once each, those that a dead process left open, with their numbers and values.
        """
        left = self._numbers("WAITING")
        number = left[0] if left else len(self._numbers())
        if not left and number >= self.total:
            return None
        if not left and self.settings.sampler == "grid":
            self.study.enqueue_trial(next(itertools.islice(grid_combinations(self.axes), number, None)))
        self.study.sampler = make_sampler(self.settings, number)
        trial = self.study.ask({key: make_distribution(axis) for key, axis in self.axes.items()})
        self.running[trial.number] = trial
        return Trial(trial.number, self._overrides(trial.params))

    def report(self, number: int, step: int, value: float) -> bool:
        """Keep the score of a running trial at a step, and say whether the trial is to be stopped.

        A step counts once, as first reported: a run that goes on from a checkpoint may report it again.
        """
        if self.settings.pruner is None:
            return False
        trial = self.running[number]
        if "stopped" not in trial.user_attrs:
            with without_warnings():
                trial.report(value, step)
            if trial.should_prune():
                trial.set_user_attr("stopped", step)  # Optuna says so once; a kill may come before the run has stopped
        return "stopped" in trial.user_attrs

    def tell(self, number: int, values: Sequence[float] | None, state: Literal["done", "failed", "pruned"]) -> None:
        """Close a running trial.  values: of the objectives, of one that is done; where one is not finite it failed."""
        from optuna.trial import TrialState

        if state == "done" and not all(math.isfinite(value) for value in values or ()):
            state = "failed"
        told = {"done": TrialState.COMPLETE, "failed": TrialState.FAIL, "pruned": TrialState.PRUNED}[state]
        self.study.tell(number, values if state == "done" else None, told)
        del self.running[number]

    def best(self) -> list[Trial]:
        """The best of the trials that are done, or their Pareto front; empty when none is."""
        if not self._numbers("COMPLETE"):
            return []
        front = [self.study.best_trial] if len(self.settings.objectives) == 1 else self.study.best_trials
        found = [Trial(trial.number, self._overrides(trial.params), tuple(trial.values)) for trial in front]
        return sorted(found, key=lambda trial: trial.number)

    def _numbers(self, state: str = "") -> list[int]:
        trials = self.study.get_trials(deepcopy=False)
        return [trial.number for trial in trials if state in ("", trial.state.name)]

    def _overrides(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(search_override(key, axis, params[key]) for key, axis in self.axes.items())


def check_search(axes: Mapping[str, SearchAxis], settings: SearchSettings) -> None:
    if not axes:
        raise ValueError("there is nothing to search: give something like optimizer.lr='tag(log,interval(1e-4,1e-1))'")
    for key, axis in axes.items():
        if settings.sampler == "grid" and isinstance(axis, Interval):
            raise ValueError(f"a grid cannot take {key}={axis}: give its values, {key}=a,b,c, or search=random")


def search_override(key: str, axis: SearchAxis, value: Any) -> str:
    """As Hydra reads the same value back. repr is the shortest text of a float that does."""
    if isinstance(axis, Interval):
        return f"{key}={int(value) if axis.whole else float(value)!r}"
    return f"{key}={value}"


def grid_combinations(axes: Mapping[str, SearchAxis]) -> Iterator[dict[str, str]]:
    """Of a grid, the last axis fastest."""
    return (dict(zip(axes, values, strict=True)) for values in itertools.product(*discrete_axes(axes)))


def discrete_axes(axes: Mapping[str, SearchAxis]) -> list[Sequence[str]]:
    return [axis for axis in axes.values() if not isinstance(axis, Interval)]


def describe_search(axes: Mapping[str, SearchAxis], settings: SearchSettings) -> dict[str, str]:
    """What must stay the same for a search to go on."""
    spans = {
        key: str(axis) if isinstance(axis, Interval) else f"choice({','.join(axis)})" for key, axis in axes.items()
    }
    rest = {f"search.{k}": json.dumps(v) for k, v in asdict(settings).items() if k not in ("trials", "seed")}
    return spans | rest


def describe_changes(earlier: Mapping[str, str], now: Mapping[str, str]) -> str:
    keys = [key for key in {**earlier, **now} if earlier.get(key) != now.get(key)]
    return "; ".join(f"{key} was {earlier.get(key, 'not there')}, is {now.get(key, 'not there')}" for key in keys)


def import_optuna(settings: SearchSettings) -> ModuleType:
    try:
        import optuna
    except ImportError as error:
        name = settings.pruner or settings.sampler
        raise ValueError(f"search={name} needs optuna: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_storage(path: Path) -> RDBStorage:
    """SQLite, since a torn last record is the end of Optuna's journal.

    It is opened anew by each call: no connection is there to be shared with a forked worker, none to be closed.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.pool import NullPool

    path.parent.mkdir(parents=True, exist_ok=True)
    # by a function, since a URL would have to escape what stands in a path
    return RDBStorage("sqlite://", {"creator": lambda: sqlite3.connect(path), "poolclass": NullPool})


def make_distribution(axis: SearchAxis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(axis, Interval):
        return CategoricalDistribution(tuple(axis))
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def make_sampler(settings: SearchSettings, number: int) -> BaseSampler:
    """Draws the values of one trial: from a seed of its own, so that a search that goes on does not repeat the first.

    A grid's values are given; its sampler draws nothing.
    """
    from optuna.samplers import RandomSampler, TPESampler

    seed = random.Random(f"{settings.seed}/{number}").getrandbits(32)
    if settings.sampler != "tpe":
        return RandomSampler(seed)
    with without_warnings():
        return TPESampler(seed=seed, constant_liar=True)  # of several open trials, each keeps away from the others


def make_pruner(settings: SearchSettings) -> BasePruner:
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner

    if settings.pruner is None:
        return NopPruner()
    return SuccessiveHalvingPruner(settings.min_resource, settings.reduction_factor)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Without Optuna's warnings: of what is experimental, and of a step that was reported before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
