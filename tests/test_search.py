"""A sweep that asks for its trials one by one, and may be killed between any two of them."""

import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lab.config.search_space import Interval, SearchSettings
from lab.sweep.search import Search

pytest.importorskip("optuna")

LR = Interval(1e-4, 1e-1, log=True)
SAMPLERS = {
    "tpe": {"_target_": "optuna.samplers.TPESampler", "_partial_": True, "constant_liar": True},
    "random": {"_target_": "optuna.samplers.RandomSampler", "_partial_": True},
}
ASHA = {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 1, "reduction_factor": 3}
TPE = SearchSettings(
    name="tpe",
    sampler=SAMPLERS["tpe"],
    pruner=None,
    min_resource=1,
    reduction_factor=3,
    trials=20,
    objective="val/accuracy",
    direction="max",
    seeds=None,
    seed=0,
)
GRID = replace(TPE, sampler=None, trials=None, name="grid")


def parsed(*overrides: str):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(list(overrides))


def values_of(overrides) -> dict:
    return {override.key_or_group: override.value() for override in parsed(*overrides)}


def far_off(overrides) -> float:
    """A quadratic over the learning rate's magnitude and the dropout, with its least, 0, at 0.003 and 0.2."""
    chosen = values_of(overrides)
    return (math.log10(chosen["optimizer.lr"]) - math.log10(0.003)) ** 2 + (chosen["model.dropout"] - 0.2) ** 2


def minimized(path: Path, sampler: str, seed: int) -> float:
    axes = {"optimizer.lr": LR, "model.dropout": Interval(0.0, 0.9)}
    search = Search(path, axes, replace(TPE, sampler=SAMPLERS[sampler], trials=30, direction="min", seed=seed))
    while trial := search.ask():
        search.tell(trial.number, [far_off(trial.overrides)], "done")
    (best,) = search.best()
    assert best.values == (far_off(best.overrides),)
    return best.values[0]


@pytest.mark.slow
def test_tpe_finds_a_better_optimum_of_a_quadratic_than_random_search(tmp_path):
    seeds = range(2)
    tpe = [minimized(tmp_path / f"tpe{seed}.db", "tpe", seed) for seed in seeds]
    drawn = [minimized(tmp_path / f"random{seed}.db", "random", seed) for seed in seeds]
    assert sum(tpe) < sum(drawn)


@pytest.mark.slow
def test_several_trials_are_open_at_once_and_told_in_any_order(tmp_path):
    search = Search(tmp_path / "search.db", {"optimizer.lr": LR}, replace(TPE, trials=3))
    first, second = search.ask(), search.ask()
    assert (first.number, second.number) == (0, 1)
    assert first.overrides != second.overrides
    search.tell(1, [0.5], "done")
    third = search.ask()
    assert third.number == 2
    assert search.ask() is None
    search.tell(2, None, "failed")
    search.tell(0, [0.25], "done")
    assert [(trial.number, trial.values) for trial in search.best()] == [(1, (0.5,))]


@pytest.mark.slow
def test_the_values_of_a_trial_are_those_of_the_seed_and_what_was_told(tmp_path):
    def overrides(name: str, reopened: bool, seed: int) -> list:
        search = Search(tmp_path / name, {"optimizer.lr": LR}, replace(TPE, trials=14, seed=seed))
        asked = []
        while trial := search.ask():
            asked.append(trial.overrides)
            search.tell(trial.number, [values_of(trial.overrides)["optimizer.lr"]], "done")
            if reopened:
                search = Search(tmp_path / name, {"optimizer.lr": LR}, replace(TPE, trials=14, seed=seed))
        return asked

    unbroken = overrides("a.db", False, 0)
    assert overrides("b.db", True, 0) == unbroken
    assert len(set(unbroken)) == 14
    assert overrides("c.db", False, 1)[0] != unbroken[0]


def test_a_score_that_is_not_finite_is_a_failure(tmp_path):
    search = Search(tmp_path / "search.db", {"optimizer.lr": LR}, TPE)
    for value in (math.nan, math.inf, -math.inf):
        search.tell(search.ask().number, [value], "done")
    assert search.best() == []
    search.tell(search.ask().number, [0.1], "done")
    assert [trial.number for trial in search.best()] == [3]


def test_more_trials_can_be_asked_for_later(tmp_path):
    search = Search(tmp_path / "search.db", {"optimizer.lr": LR}, replace(TPE, trials=1))
    search.tell(search.ask().number, [0.5], "done")
    assert search.ask() is None
    more = Search(tmp_path / "search.db", {"optimizer.lr": LR}, replace(TPE, trials=2))
    assert more.ask().number == 1
    assert more.ask() is None


# ASHA


@pytest.mark.slow
def test_asha_spends_less_than_half_and_keeps_the_best(tmp_path):
    limit = 27
    levels = [f"{0.5 + 0.01 * level:.2f}" for level in range(27)]
    random.Random(0).shuffle(levels)
    search = Search(tmp_path / "search.db", {"level": levels}, replace(GRID, pruner=ASHA))

    def score(trial, step: int) -> float:
        return float(trial.overrides[0].removeprefix("level=")) * (1 - math.exp(-step / 9))

    spent, slots = 0, {}
    while True:
        while len(slots) < 4 and (trial := search.ask()):
            slots[trial.number] = (trial, 0)
        if not slots:
            break
        for number, (trial, step) in list(slots.items()):
            spent += 1
            slots[number] = (trial, step + 1)
            if search.report(number, step + 1, score(trial, step + 1)):
                search.tell(number, None, "pruned")
                del slots[number]
            elif step + 1 == limit:
                search.tell(number, [score(trial, limit)], "done")
                del slots[number]
    assert spent < 27 * limit / 2
    assert search.best()[0].overrides == ("level=0.76",)


def test_a_trial_that_is_to_be_stopped_is_so_still_after_a_kill(tmp_path):
    axes = {"level": [str(number) for number in range(4)]}
    asha = replace(GRID, pruner=ASHA)
    search = Search(tmp_path / "search.db", axes, asha)
    for number in range(4):
        search.ask()
        stopped = search.report(number, 1, 1.0 - number)
    assert stopped
    again = Search(tmp_path / "search.db", axes, asha)
    assert [again.ask().number for _ in range(4)] == [0, 1, 2, 3]
    # each goes on from its checkpoint and reports its last step again
    assert [again.report(number, 1, 1.0 - number) for number in range(4)] == [False, True, True, True]
    assert again.report(3, 2, 5.0)


def test_a_step_reported_twice_counts_as_first_reported_and_nan_is_stopped(tmp_path, recwarn):
    asha = replace(GRID, pruner=ASHA)
    search = Search(tmp_path / "search.db", {"level": ["a", "b", "c", "d"]}, asha)
    for number in range(3):
        search.ask()
        search.report(number, 1, float(number))
    assert not search.report(2, 1, -1.0)
    assert search.report(search.ask().number, 1, math.nan)
    assert not [warning for warning in recwarn if "optuna" in str(warning.filename)]


def test_without_a_pruner_no_trial_is_stopped(tmp_path):
    search = Search(tmp_path / "search.db", {"optimizer.lr": LR}, TPE)
    for value in (3.0, 2.0, 1.0):
        assert not search.report(search.ask().number, 1000, value)


# several objectives, grids


def test_two_objectives_give_the_pareto_front(tmp_path):
    both = replace(TPE, objective=["test/accuracy", "latency_ms"], direction=["max", "min"], trials=4)
    search = Search(tmp_path / "search.db", {"optimizer.lr": LR}, both)
    for values in ([0.9, 5.0], [0.8, 1.0], [0.7, 2.0], [0.95, math.nan]):
        search.tell(search.ask().number, values, "done")
    assert [(trial.number, trial.values) for trial in search.best()] == [(0, (0.9, 5.0)), (1, (0.8, 1.0))]


def test_a_grid_covers_every_combination_once_also_when_reopened(tmp_path):
    axes = {"model": ("mlp", "resnet20"), "optimizer.lr": ("0.1", "0.01", "0.001")}
    search = Search(tmp_path / "search.db", axes, GRID)
    asked = []
    while trial := search.ask():
        asked.append(trial.overrides)
        search.tell(trial.number, None, "failed")
        search = Search(tmp_path / "search.db", dict(reversed(axes.items())), GRID)
    assert asked == [(f"model={m}", f"optimizer.lr={lr}") for m in axes["model"] for lr in axes["optimizer.lr"]]


# what is refused


@pytest.mark.parametrize(
    ("axes", "changed", "said"),
    [
        ({"optimizer.lr": Interval(1e-4, 0.2, log=True)}, {}, "optimizer.lr was tag(log,interval(0.0001,0.1)), is "),
        ({"optimizer.lr": LR, "model": ("mlp",)}, {}, "model was not there, is choice(mlp)"),
        ({"optimizer.lr": LR}, {"direction": "min"}, 'search.direction was "max", is "min"'),
        ({"optimizer.lr": LR}, {"seeds": [0, 1]}, "search.seeds was null, is [0, 1]"),
    ],
)
def test_a_file_of_another_search_is_refused(tmp_path, axes, changed, said):
    Search(tmp_path / "search.db", {"optimizer.lr": LR}, TPE)
    with pytest.raises(ValueError, match="holds another search") as refused:
        Search(tmp_path / "search.db", axes, replace(TPE, **changed))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"trials": 0}, "search.trials=0 is not a number from 1 on"),
        ({"trials": None}, "search.trials=20"),
        ({"sampler": None}, "search.trials=null"),
        ({"direction": "up"}, "no search.direction=up"),
        ({"objective": ["a", "b"]}, "as in [max,max]"),
        ({"objective": ["a", "a"], "direction": ["max", "max"]}, "different"),
        ({"objective": ["a", "b"], "direction": ["max", "max"], "pruner": ASHA}, "search.pruner=null"),
        ({"seeds": []}, "as [0,1,2]"),
        ({"reduction_factor": 1}, "search.reduction_factor=1"),
    ],
)
def test_a_setting_that_cannot_be_says_what_to_type(changed, said):
    with pytest.raises(ValueError, match="search") as refused:
        replace(TPE, **changed)
    assert said in str(refused.value)


def test_axes_that_the_sampler_cannot_take_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to search"):
        Search(tmp_path / "search.db", {}, TPE)
    with pytest.raises(ValueError, match="search=random"):
        Search(tmp_path / "search.db", {"optimizer.lr": LR}, GRID)


def test_a_search_without_optuna_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"search=tpe needs optuna: pip install optuna"):
        Search(tmp_path / "search.db", {"optimizer.lr": LR}, TPE)


def test_a_directory_may_have_any_name(tmp_path):
    path = tmp_path / "50% {of} a?b#c ü" / "search.db"
    Search(path, {"optimizer.lr": LR}, TPE).ask()
    assert path.stat().st_size


def test_searching_imports_neither_hydra_nor_torch_and_optuna_only_when_used():
    code = (
        "import sys, lab.sweep.search; assert not {'hydra', 'omegaconf', 'torch', 'optuna', 'numpy'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
