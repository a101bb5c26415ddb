"""The trials of a search, kept in a file. `ask` gives the next trial, `report` and `tell` take its scores.

Samplers and pruners are Optuna's, which is an optional package, or the user's own. In conf/search/, TPE is by Bergstra
et al. 2011, NeurIPS 24; ASHA, which ends trials early, is by Li et al. 2018, arXiv:1810.05934, algorithm 2. Where the
paper pauses a trial, Optuna ends it for good.
"""

from __future__ import annotations

import inspect
import itertools
import json
import math
import os
import random
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lab.config.check import check_group
from lab.config.groups import SEARCH_GROUPS
from lab.config.search_space import DIRECTIONS, Interval, SearchAxis, SearchSettings
from lab.config.targets import instantiate_node, locate, own_error
from lab.errors import ConfigError
from lab.record.files import make_directory, open_to_append, refuse_link

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage


@dataclass(frozen=True)
class Trial:
    """One choice of a value for each axis of the search space.

    overrides: overrides that set these values.  values: values of the objectives, of a trial that is done.
    """

    number: int
    overrides: tuple[str, ...]
    values: tuple[float, ...] = ()


class Search:
    """The trials of a search, in one file. One process at a time has the file open; it may be killed at any moment.

    axes: search space, in the order in which it was first given.  total: number of trials.  running: trials that were
    asked for and not told of yet, by number.

    Where all axes are discrete, a sampler may propose the same values twice, even at the same time.
    """

    def __init__(self, storage: Path, axes: Mapping[str, SearchAxis], settings: SearchSettings):
        """Opens `storage`, or creates it.

        axes: interval or values of each searched key; the values are spelled as in an override.

        Raises ValueError where `storage` holds another search, ConfigError where a sampler or a pruner cannot be made.
        """
        check_axes(axes, settings)
        check_search_nodes(vars(settings))
        import optuna

        optuna_storage = open_storage(storage)
        self.settings = settings
        self.study = optuna.create_study(
            storage=optuna_storage,
            study_name="search",
            directions=[DIRECTIONS[direction] for direction in settings.directions],
            pruner=make_pruner(settings),
            load_if_exists=True,
        )
        description = describe_search(axes, settings)
        earlier = self.study.user_attrs.get("about")
        if earlier is None:
            self.study.set_user_attr("about", description)
        elif earlier != description:
            changes = describe_changes(earlier, description)
            raise ValueError(f"{storage} holds another search: {changes}; give it a new directory")
        # in the order in which they were first given, which decides the number of each combination of a grid
        self.axes = {key: axes[key] for key in earlier or description if key in axes}
        self.total = settings.trials or math.prod(len(choices) for choices in discrete_axes(self.axes))
        self.running: dict[int, optuna.Trial] = {}
        study_id = optuna_storage.get_study_id_from_name("search")
        for number in self._numbers("RUNNING"):  # a process that died has left them open
            trial_id = optuna_storage.get_trial_id_from_study_id_trial_number(study_id, number)
            optuna_storage.set_trial_state_values(trial_id, optuna.trial.TrialState.WAITING)

    def ask(self) -> Trial | None:
        """The next trial; None when all have been given out.

        Trials that a dead process left open come first, once each, with the same numbers and values.
        """
        waiting = self._numbers("WAITING")
        number = waiting[0] if waiting else len(self._numbers())
        if not waiting and number >= self.total:
            return None
        if not waiting and self.settings.sampler is None:
            self.study.enqueue_trial(next(itertools.islice(grid_combinations(self.axes), number, None)))
        self.study.sampler = make_sampler(self.settings, number)
        trial = self.study.ask({key: make_distribution(axis) for key, axis in self.axes.items()})
        self.running[trial.number] = trial
        return Trial(trial.number, self._overrides(trial.params))

    def report(self, number: int, step: int, value: float) -> bool:
        """Keep the score of a running trial at a step, and return whether the trial is to be stopped.

        The first report of a step counts: a run that resumes from a checkpoint may report the step again.
        """
        if self.settings.pruner is None:
            return False
        trial = self.running[number]
        if "stopped" not in trial.user_attrs:
            with without_warnings():
                trial.report(value, step)
            if trial.should_prune():
                trial.set_user_attr(
                    "stopped", step
                )  # kept, as Optuna prunes once, and this process may be killed before the run stops
        return "stopped" in trial.user_attrs

    def tell(self, number: int, values: Sequence[float] | None, state: Literal["done", "failed", "pruned"]) -> None:
        """Close a running trial.

        values: values of the objectives of a trial that is done. If one of them is not finite, the trial counts as
        failed.
        """
        from optuna.trial import TrialState

        if state == "done" and not all(math.isfinite(value) for value in values or ()):
            state = "failed"
        states = {"done": TrialState.COMPLETE, "failed": TrialState.FAIL, "pruned": TrialState.PRUNED}
        self.study.tell(number, values if state == "done" else None, states[state])
        del self.running[number]

    def best(self) -> list[Trial]:
        """The best of the trials that are done; for several objectives, their Pareto front. Empty if none is done."""
        if not self._numbers("COMPLETE"):
            return []
        front = [self.study.best_trial] if len(self.settings.objectives) == 1 else self.study.best_trials
        trials = [Trial(trial.number, self._overrides(trial.params), tuple(trial.values)) for trial in front]
        return sorted(trials, key=lambda trial: trial.number)

    def _numbers(self, state: str = "") -> list[int]:
        """The numbers of the trials in Optuna's `state`; of all trials where it is empty."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial.number for trial in trials if state in ("", trial.state.name)]

    def _overrides(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(search_override(key, axis, params[key]) for key, axis in self.axes.items())


def check_axes(axes: Mapping[str, SearchAxis], settings: SearchSettings) -> None:
    """Raises ValueError for axes that the search cannot take."""
    if not axes:
        raise ValueError("there is nothing to search: give something like optimizer.lr='tag(log,interval(1e-4,1e-1))'")
    for key, axis in axes.items():
        if settings.sampler is None and isinstance(axis, Interval):
            raise ValueError(f"a grid cannot take {key}={axis}: give its values, {key}=a,b,c, or search=random")


def check_search_nodes(settings: Mapping[str, Any]) -> None:
    """Raises ConfigError for a sampler or pruner that a config may not have called, ValueError if Optuna is missing.

    settings: settings of the search, by name.
    """
    import_optuna(settings["name"])
    problems = []
    for name, group in SEARCH_GROUPS.items():
        if (node := settings.get(group.path[-1])) is not None:
            problems += check_group(name, node)
    if problems:
        raise ConfigError(*problems)


def search_override(key: str, axis: SearchAxis, value: Any) -> str:
    """The override that Hydra parses to the same value: the repr of a float is the shortest text that does."""
    if isinstance(axis, Interval):
        return f"{key}={int(value) if axis.whole else float(value)!r}"
    return f"{key}={value}"


def grid_combinations(axes: Mapping[str, SearchAxis]) -> Iterator[dict[str, str]]:
    """The combinations of a grid; the last axis varies fastest."""
    return (dict(zip(axes, values, strict=True)) for values in itertools.product(*discrete_axes(axes)))


def discrete_axes(axes: Mapping[str, SearchAxis]) -> list[Sequence[str]]:
    """The values of each axis that is not an interval."""
    return [axis for axis in axes.values() if not isinstance(axis, Interval)]


def describe_search(axes: Mapping[str, SearchAxis], settings: SearchSettings) -> dict[str, str]:
    """Everything that must stay the same for a search to be continued, as text by key."""
    space = {
        key: str(axis) if isinstance(axis, Interval) else f"choice({','.join(axis)})" for key, axis in axes.items()
    }
    changeable = ("trials", "seed", "name")
    return space | {f"search.{k}": json.dumps(v) for k, v in asdict(settings).items() if k not in changeable}


def describe_changes(earlier: Mapping[str, str], now: Mapping[str, str]) -> str:
    keys = [key for key in {**earlier, **now} if earlier.get(key) != now.get(key)]
    return "; ".join(f"{key} was {earlier.get(key, 'not there')}, is {now.get(key, 'not there')}" for key in keys)


def import_optuna(search_name: str) -> None:
    """Raises ValueError where Optuna is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ValueError(f"search={search_name} needs optuna: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(path: Path) -> RDBStorage:
    """Optuna's storage in an SQLite file. Its other format, a journal, cannot be read once its last record is torn.

    Each access opens a new connection, so that none has to be closed, and none is shared with a forked worker.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.pool import NullPool

    make_directory(path.parent)
    for ending in ("-journal", "-wal", "-shm"):  # SQLite's own files beside the database
        refuse_link(path.with_name(path.name + ending))
    if path.exists() or path.is_symlink():  # a hard link is replaced by a copy
        os.close(open_to_append(path))
    # with a function that opens the file, since in a URL the path would need escapes
    return RDBStorage("sqlite://", {"creator": lambda: sqlite3.connect(path), "poolclass": NullPool})


def make_distribution(axis: SearchAxis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(axis, Interval):
        return CategoricalDistribution(tuple(axis))
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def make_sampler(settings: SearchSettings, number: int) -> BaseSampler:
    """The sampler of one trial, with the trial's own seed: a continued search does not repeat its first draws.

    A grid gives every value itself, and its sampler draws nothing.
    """
    from optuna.samplers import RandomSampler

    seed = random.Random(f"{settings.seed}/{number}").getrandbits(32)
    if settings.sampler is None:
        return RandomSampler(seed)
    return instantiate_from_optuna("search.sampler", add_seed(settings.sampler, seed))


def add_seed(value: Any, seed: int) -> Any:
    """The same nest with `seed` in every node that lacks it and whose target has a parameter of this name."""
    if isinstance(value, list):
        return [add_seed(part, seed) for part in value]
    if not isinstance(value, Mapping):
        return value
    node = {key: add_seed(part, seed) for key, part in value.items()}
    takes_seed = "_target_" in node and "seed" in inspect.signature(locate(node["_target_"])).parameters
    return {"seed": seed, **node} if takes_seed else node


def make_pruner(settings: SearchSettings) -> BasePruner:
    from optuna.pruners import NopPruner

    return NopPruner() if settings.pruner is None else instantiate_from_optuna("search.pruner", settings.pruner)


def instantiate_from_optuna(where: str, node: Mapping[str, Any]) -> Any:
    """The object of a checked node; a partial node is called without arguments. Raises ConfigError if that fails.

    where: key of the node, for the message.
    """
    try:
        with without_warnings():
            instance = instantiate_node(node)
            return instance() if node.get("_partial_") else instance
    except Exception as error:
        cause = own_error(error)
        raise ConfigError(f"{where}: {cause}") from cause


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Optuna's warnings: of experimental features, and of a step that was reported before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
