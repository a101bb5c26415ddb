"""Samplers and pruners are nodes of the config: ours, any of Optuna's, or one's own."""

from dataclasses import replace

import pytest

from lab.config.search_space import SearchAxis, SearchSettings, name_search
from lab.errors import ConfigError
from lab.sweep.search import Search, check_search_nodes
from tests.conftest import ROOT
from tests.test_search import ASHA, GRID, LR, SAMPLERS, TPE


def composed(*overrides: str) -> dict:
    """The node `search` as the command line gives it."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", list(overrides))
    return OmegaConf.to_container(config, resolve=True)["search"]  # type: ignore[call-overload, index]


AXES: dict[str, SearchAxis] = {"optimizer.lr": ("0.1", "0.2", "0.3"), "model": ("mlp", "simple_cnn")}


@pytest.mark.parametrize("option", ["grid", "random", "tpe", "asha"])
def test_an_option_of_the_group_is_a_search(option, tmp_path):
    chosen = SearchSettings(**composed(f"search={option}", "monitor=val/loss", "mode=min"))
    assert (chosen.objectives, chosen.directions) == (["val/loss"], ["min"])
    assert Search(tmp_path / "search.db", AXES, chosen).ask()


@pytest.mark.parametrize("group", ["sampler", "pruner"])
def test_an_option_of_a_search_s_groups_is_a_node_that_optuna_makes(group, tmp_path):
    for option in sorted(path.stem for path in (ROOT / "conf" / "search" / group).glob("*.yaml")):
        chosen = SearchSettings(**composed("search=tpe", f"search/{group}={option}", "search.min_resource=7"))
        assert chosen.pruner is None or chosen.pruner["min_resource"] == 7
        assert Search(tmp_path / f"{option}.db", AXES, chosen.resolve([("val/loss", "min")])).ask()


def test_asha_with_another_sampler_is_a_choice_of_a_group():
    asha = composed("search=asha", "search/sampler=random")
    assert asha["sampler"]["_target_"] == "optuna.samplers.RandomSampler"
    assert asha["pruner"]["_target_"] == "optuna.pruners.SuccessiveHalvingPruner"
    with pytest.raises(ConfigError) as refused:
        check_search_nodes({"name": "asha", **composed("search=asha", "search.sampler=random")})
    assert "choose an option of the group: search/sampler=random" in str(refused.value)


OTHERS = {
    "qmc": {"_target_": "optuna.samplers.QMCSampler", "_partial_": True, "qmc_type": "halton"},
    "nsga2": {"_target_": "optuna.samplers.NSGAIISampler", "_partial_": True, "population_size": 4},
    "fixed": {
        "_target_": "optuna.samplers.PartialFixedSampler",
        "_partial_": True,
        "fixed_params": {"model": "mlp"},
        "base_sampler": {"_target_": "optuna.samplers.RandomSampler"},  # which gets the trial's seed too
    },
    "one's own": {"_target_": "tests.test_search_nodes.LastSampler", "_partial_": True},
}


def LastSampler(seed: int, last: int = 1):
    """A sampler of one's own: the last of the values of each key."""
    from optuna.samplers import BaseSampler

    class Last(BaseSampler):
        def infer_relative_search_space(self, study, trial):
            return {}

        def sample_relative(self, study, trial, search_space):
            return {}

        def sample_independent(self, study, trial, param_name, param_distribution):
            assert isinstance(seed, int)
            return param_distribution.choices[-last]

    return Last()


@pytest.mark.parametrize("sampler", OTHERS.values(), ids=OTHERS)
def test_any_sampler_of_optuna_or_ones_own_can_be_named(sampler, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # whose code is the project's own
    search = Search(tmp_path / "search.db", AXES, replace(TPE, sampler=sampler, trials=12))
    asked = []
    while trial := search.ask():
        asked.append(trial.overrides)
        search.tell(trial.number, [float(trial.number)], "done")
    assert len(asked) == 12
    if sampler is OTHERS["one's own"]:
        assert set(asked) == {("optimizer.lr=0.3", "model=simple_cnn")}
    else:
        assert len(set(asked)) > 2
    if sampler is OTHERS["fixed"]:
        assert {model for _, model in asked} == {"model=mlp"}


PRUNERS = {
    "hyperband": {"_target_": "optuna.pruners.HyperbandPruner", "min_resource": 1, "max_resource": 9},
    "median": {"_target_": "optuna.pruners.MedianPruner", "_partial_": True},
    "a nest": {
        "_target_": "optuna.pruners.PatientPruner",
        "patience": 1,
        "wrapped_pruner": {"_target_": "optuna.pruners.ThresholdPruner", "lower": -50.0},
    },
}


@pytest.mark.parametrize("name", PRUNERS)
def test_any_pruner_of_optuna_can_be_named(name, tmp_path):
    levels = [str(level) for level in range(20)]
    search = Search(tmp_path / "search.db", {"level": levels}, replace(GRID, pruner=PRUNERS[name]))
    pruned = 0
    while trial := search.ask():
        score = -float(trial.number)
        if any(search.report(trial.number, step, score * step) for step in range(1, 10)):
            search.tell(trial.number, None, "pruned")
            pruned += 1
        else:
            search.tell(trial.number, [score], "done")
    assert 0 < pruned < 20


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sampler": {"_target_": "optuna.samplers.TPESampler"}}, "search.sampler needs _partial_: true"),
        ({"sampler": SAMPLERS["tpe"] | {"sead": 1}}, "search.sampler.sead: TPESampler takes no 'sead'"),
        ({"sampler": {"_target_": "optuna.samplers.TPE", "_partial_": True}}, "no 'TPE' in optuna.samplers"),
        ({"sampler": ASHA | {"_partial_": True}}, "search.sampler: _target_ optuna.pruners.Succ"),
        ({"sampler": {"_target_": "os.system", "_partial_": True}}, "search.sampler: _target_ os.system is not one"),
        ({"pruner": {"_target_": "pickle.load"}}, "search.pruner: _target_ pickle.load is not one to be run"),
        ({"pruner": {"_target_": "optuna.load_study"}}, "_target_ optuna.load_study is not one to be run"),
        ({"pruner": "median"}, "choose an option of the group: search/pruner=median"),
        ({"pruner": ASHA | {"reduction_factor": 1}}, "search.pruner: "),
    ],
)
def test_a_sampler_or_a_pruner_that_cannot_be_made_is_refused(changed, said, tmp_path):
    with pytest.raises(ConfigError) as refused:
        Search(tmp_path / "search.db", {"optimizer.lr": LR}, replace(TPE, **changed))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("choices", "name"),
    [
        ({"search": "grid", "search/sampler": None}, "grid"),
        ({"search": "tpe", "search/sampler": "random", "search/pruner": None}, "random"),
        ({"search": "asha", "search/sampler": "tpe", "search/pruner": "asha"}, "asha"),
        ({}, "search"),
    ],
)
def test_a_search_is_called_by_what_tells_it_from_others(choices, name):
    assert name_search(choices) == name
