"""A sweep's jobs are composed once for each choice of groups, and are what Hydra composes job by job."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import lab
from lab.config.compose import Composer
from lab.config.composed import ComposedConfig
from lab.config.hydra_setup import plain_config, register_with_hydra, without_hydra_node
from lab.errors import ConfigError

VALUES = {
    "optimizer": ["sgd", "adamw", "muon"],
    "model": ["mlp", "simple_cnn"],
    "data": ["digits", "synthetic"],
    "regularize": ["none", "ema"],
    "seed": ["0", "7"],
    "optimizer.lr": ["0.1", "1e-3", "1"],
    "data.batch_size": ["8", "16"],
    "data.shape": ["[1,4,4]", "[3,8,8]"],
    "model.num_classes": ["3", "${seed}", "${data.num_classes}", "${steps}", "${data.limit}"],
    "steps": ["null", "5"],
    "monitor": ["val/top5", "'val/x y'"],
    "+paths.note": ["a", "{a:1,b:[2]}"],
    "++data.seed": ["3", "${epochs}"],
    "data.mean": ["[0.5]", "[]"],
    "paths.data": ["/a", "${oc.env:HOME}/b"],
    "~data.val_share": [None],
    "+of": ["${hydra:runtime.choices.model}"],
}


@pytest.fixture(scope="module")
def composer():
    register_with_hydra()
    with initialize_config_module("lab.conf", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra
        master = hydra.compose_config("train", [], run_mode=RunMode.MULTIRUN, with_log_configuration=False)
        yield Composer(hydra.config_loader, master)


jobs = st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=6).flatmap(
    lambda keys: st.tuples(
        *(st.sampled_from([key if v is None else f"{key}={v}" for v in VALUES[key]]) for key in keys)
    )
)


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(job=jobs)
def test_a_job_is_composed_as_hydra_composes_it(composer, job):
    try:
        config = compose("train", list(job), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        expected = ComposedConfig.from_hydra(without_hydra_node(config), config.hydra)
    except (HydraException, ConfigError):  # the second of an interpolation of what is not there
        with pytest.raises(ConfigError):
            composer(0, list(job))
        return
    found = composer(0, list(job))
    assert found.resolved == expected.resolved
    assert list(found.resolved) == list(expected.resolved)
    assert found.unresolved == expected.unresolved
    assert found.choices == expected.choices
    assert list(found.overrides) == list(expected.overrides)


@given(
    st.one_of(st.integers(), st.floats()).map(str)
    | st.from_regex(r"-?[0-9]{1,3}(\.[0-9]*)?(e[+-]?[0-9]{1,2})?", fullmatch=True)
)
def test_a_number_is_read_as_hydra_reads_it(text):
    composer = Composer.__new__(Composer)
    composer.loader = SimpleNamespace(repository=SimpleNamespace(group_exists=lambda key: False))
    composer.parse_once = composer.parse_override
    override = f"optimizer.lr={text}"
    found, is_choice = composer.parse_override(override)
    expected = OverridesParser.create().parse_override(override)
    assert not is_choice
    assert repr(replace(found, config_loader=None)) == repr(expected)
    assert type(found.value()) is type(expected.value())


def test_a_relative_interpolation_behind_another_is_followed(composer):
    for width in (3, 4):
        job = ["+paths.a=${.b}", f"+paths.b={width}", "+width=${paths.a}", "model=mlp", "model.hidden=[${width}]"]
        found = composer(0, job)
        assert found.resolved["width"] == width
        base = composer.bases[("model=mlp",)]
        source = {"paths": {"a": "${.b}", "b": width}, "width": "${paths.a}", "x": {"y": "${width}"}}
        assert base.resolve_node("x", source) == {"y": width}


def test_a_job_asks_hydra_for_its_own_choices_and_number(composer):
    for number, model in enumerate(("mlp", "simple_cnn", "mlp")):
        job = [f"model={model}", "+of=${hydra:runtime.choices.model}", "+n=${hydra:job.num}"]
        found = composer(number, job)
        assert (found.resolved["of"], found.resolved["n"]) == (model, number)


def test_what_does_not_compose_says_so(composer):
    with pytest.raises(ConfigError, match=r"no key 'optimizer\.momentum'"):
        composer(0, ["optimizer=adamw", "optimizer.momentum=0.9"])
    with pytest.raises(ConfigError, match="no option 'adamv' in the group 'optimizer'"):
        composer(0, ["optimizer=adamv"])


def test_jobs_share_what_is_the_same(composer):
    one, other = (composer(0, ["model=mlp", f"seed={seed}"]) for seed in (1, 2))
    assert one.resolved["optimizer"] is other.resolved["optimizer"]
    assert one.resolved["data"]["seed"] == 1
    assert other.resolved["data"]["seed"] == 2


def test_missing_values_are_found_in_lists_and_behind_interpolations_too():
    config = OmegaConf.create({"data": {"folder": "???", "name": "${data.folder}"}, "shape": [1, "???", {"x": "???"}]})
    with pytest.raises(ConfigError) as refused:
        plain_config(config)
    assert refused.value.problems == (
        "data.folder is missing; give data.folder=...",
        "shape[1] is missing; give shape=...",
        "shape[2].x is missing; give shape=...",
    )


def test_a_config_file_is_read_once_until_it_changes_whatever_is_made_of_it(tmp_path, monkeypatch):
    option = tmp_path / "conf" / "optimizer" / "mine.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: torch.optim.SGD\n_partial_: true\nlr: 0.1\n")
    monkeypatch.chdir(tmp_path)
    load, read = OmegaConf.load, []
    monkeypatch.setattr(OmegaConf, "load", lambda file: read.append(file.name) or load(file))

    def rate(*overrides: str) -> float:
        return lab.compose(["model=mlp", "optimizer=mine", *overrides])["optimizer"]["lr"]

    assert [rate("optimizer.lr=5"), rate("+optimizer.momentum=0.9"), rate()] == [5, 0.1, 0.1]
    assert str(option) in read
    assert len(read) == len(set(read))
    option.write_text("_target_: torch.optim.SGD\n_partial_: true\nlr: 0.3\n")
    assert rate() == 0.3
    option.unlink()
    with pytest.raises(ConfigError, match="no option 'mine'"):
        rate()
