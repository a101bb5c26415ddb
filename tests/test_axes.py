"""From what a sweep is asked for to its jobs, held against Hydra's own sweeper."""

import random
from collections.abc import Iterator

import pytest
import yaml
from hydra import initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from hypothesis import given
from hypothesis import strategies as st

from lab.config.hydra_setup import register_with_hydra
from lab.config.overrides import (
    override_value,
    quote_path,
    root_key,
    swept_keys,
    wrap_in_choices,
    write_override,
    write_value,
)
from lab.config.sweep_grid import expand_sweep
from lab.errors import ConfigError


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    register_with_hydra()
    with initialize_config_module("lab.conf", version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def hydras(arguments: list[str], loader: ConfigLoader) -> list[list[str]]:
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def spec(text: str):
    """`sweep` as an experiment's file has it."""
    return yaml.safe_load(text)


def short(jobs: list[list[str]]) -> list[str]:
    return [" ".join(job) for job in jobs]


SWEEPS = [
    [],
    ["seed=1"],
    ["seed=1,2,3"],
    ["optimizer=sgd,adamw", "seed=0,1", "epochs=3"],
    ["a=choice(x,y)", "b=range(3)", "c=range(0.1,0.4,0.1)", "d=range(5,1,-2)"],
    ["optimizer=glob(*)", "model=glob([s*,m*],exclude=mlp)"],
    ["seed=shuffle(range(9))", "lr=shuffle(1,2,3)", "x=shuffle(choice(a,b,c,d))", "y=shuffle([1,2,3])"],
    ["seed=sort(3,1,2)", "lr=sort(choice(0.3,0.1),reverse=true)", "z=sort(range(3),reverse=true)"],
    ["a='x y','it\\'s',\"1\"", "b='é'", "c=a\\,b,c\\ d", "d=", "e=${x},${y}"],
    ["a=[1,'2'],[3]", "b={x:1,y:[a,'b c']},{x:null}", "c=null,true,1e-3,nan", "d=[[1],{k:v}]"],
    ["seed=0,1", "seed=2", "lr=0.1", "lr=0.2,0.3"],
    ["lr=0.1,0.2", "+lr=0.3,0.4", "++lr=0.5", "~lr", "~model=cnn", "~a=1,2"],
    ["optimizer@x=sgd,adamw", "hydra/launcher=a,b", "a=tag(t,choice(1,2))", "b=int(1.5,2.5)", "c=str(choice(1,2))"],
    ["seed=0,0"],
]


@pytest.mark.parametrize("arguments", SWEEPS, ids=" ".join)
def test_the_command_line_gives_the_jobs_of_hydras_sweeper(arguments, loader):
    random.seed(0)
    expected = hydras(arguments, loader)
    random.seed(0)
    assert expand_sweep(arguments, loader) == expected


def test_a_glob_finds_the_options_there_are(loader):
    assert ["optimizer=sgd"] in expand_sweep(["optimizer=glob(*)"], loader)


def test_an_interval_is_no_list_of_jobs(loader):
    with pytest.raises(ConfigError) as error:
        expand_sweep(["optimizer.lr=interval(0.001,0.1)"], loader)
    assert str(error.value) == "optimizer.lr=interval(0.001,0.1) is continuous; give search=tpe, or a list of values"


def test_a_grid_is_a_product_of_lists_scalars_and_hydras_sweeps(loader):
    jobs = expand_sweep([], loader, spec("grid: {optimizer: 'sgd,adamw', seed: range(2), epochs: 3, amp: [true]}"))
    assert short(jobs) == [
        "optimizer=sgd seed=0 epochs=3 amp=True",
        "optimizer=sgd seed=1 epochs=3 amp=True",
        "optimizer=adamw seed=0 epochs=3 amp=True",
        "optimizer=adamw seed=1 epochs=3 amp=True",
    ]
    assert jobs == hydras(["optimizer=sgd,adamw", "seed=range(2)", "epochs=3", "amp=true"], loader)


def test_a_grid_can_glob(loader):
    assert expand_sweep([], loader, spec("grid: {optimizer: glob(*)}")) == hydras(["optimizer=glob(*)"], loader)


def test_a_zip_moves_together_and_a_grid_multiplies_it(loader):
    jobs = expand_sweep(
        [], loader, spec("{zip: {model: [mlp, simple_cnn], optimizer.lr: [0.01, 1e-3]}, grid: {seed: [0, 1]}}")
    )
    assert short(jobs) == [
        "model=mlp optimizer.lr=0.01 seed=0",
        "model=mlp optimizer.lr=0.01 seed=1",
        "model=simple_cnn optimizer.lr='1e-3' seed=0",  # YAML 1.1 takes 1e-3 for a string; OmegaConf does not
        "model=simple_cnn optimizer.lr='1e-3' seed=1",
    ]


def test_an_exclusion_leaves_out_the_jobs_that_have_all_of_its_values(loader):
    jobs = expand_sweep(
        [], loader, spec("{grid: {optimizer: [sgd, adamw], seed: [0, 1]}, exclude: [{optimizer: sgd, seed: 1}]}")
    )
    assert short(jobs) == ["optimizer=sgd seed=0", "optimizer=adamw seed=0", "optimizer=adamw seed=1"]


def test_an_exclusion_compares_values_and_not_their_spelling(loader):
    part = {"grid": {"lr": "1e-3,1e-2", "optimizer": "'sgd',adamw", "a": [[1, "2"], {"x": 1.0}]}}
    assert len(expand_sweep([], loader, part)) == 8
    assert len(expand_sweep([], loader, part | {"exclude": [{"lr": 0.001}]})) == 4
    assert len(expand_sweep([], loader, part | {"exclude": [{"optimizer": "sgd"}]})) == 4
    assert len(expand_sweep([], loader, part | {"exclude": [{"a": {"x": 1}}, {"a": [1, "2"], "lr": 0.01}]})) == 2


def test_a_list_of_parts_is_a_union_without_repetitions(loader):
    jobs = expand_sweep([], loader, spec("[{grid: {a: [1, 2], b: 0}}, {zip: {b: [0, 1], a: [2, 2]}}, {grid: {}}]"))
    assert short(jobs) == ["a=1 b=0", "a=2 b=0", "b=1 a=2", ""]


def test_the_command_line_replaces_an_axis_of_every_part_or_is_one_more(loader):
    parts = spec("[{grid: {optimizer: [sgd, adamw], seed: [0, 1, 2]}}, {grid: {model: mlp}}]")
    assert short(expand_sweep(["seed=7,8", "epochs=1"], loader, parts)) == [
        "optimizer=sgd seed=7 epochs=1",
        "optimizer=sgd seed=8 epochs=1",
        "optimizer=adamw seed=7 epochs=1",
        "optimizer=adamw seed=8 epochs=1",
        "model=mlp seed=7 epochs=1",
        "model=mlp seed=8 epochs=1",
    ]


def test_the_command_line_gives_a_zip_one_value_or_replaces_it_whole(loader):
    part = spec("zip: {model: [mlp, simple_cnn], lr: [0.1, 0.2]}")
    assert short(expand_sweep(["lr=1"], loader, part)) == ["model=mlp lr=1", "model=simple_cnn lr=1"]
    with pytest.raises(
        ConfigError, match=r"lr=1,2: sweep zips lr with model.* lr=1,2 model=mlp,simple_cnn.*sweep=null"
    ):
        expand_sweep(["lr=1,2"], loader, part)
    assert short(expand_sweep(["lr=1,2", "model=mlp,simple_cnn"], loader, part)) == [
        f"lr={lr} model={m}" for lr in (1, 2) for m in ("mlp", "simple_cnn")
    ]
    assert short(expand_sweep(["lr=1", "model=mlp"], loader, part)) == ["lr=1 model=mlp"]


def test_a_plus_before_a_key_is_no_other_axis(loader):
    part = spec("{grid: {+optimizer.foo: [1, 2], seed: [0, 1]}, exclude: [{optimizer.foo: 1, seed: 0}]}")
    assert short(expand_sweep([], loader, part))[0] == "+optimizer.foo=1 seed=1"
    assert short(expand_sweep(["++optimizer.foo=3"], loader, part)) == [
        "++optimizer.foo=3 seed=0",
        "++optimizer.foo=3 seed=1",
    ]
    assert short(expand_sweep(["seed=1", "++seed=2"], loader, spec("grid: {seed: [0, 1]}"))) == ["seed=1 ++seed=2"]


def test_an_exclusion_holds_for_what_the_command_line_gives_and_need_not_match_it(loader):
    part = spec("{grid: {optimizer: [sgd, adamw], seed: [0, 1]}, exclude: [{optimizer: sgd, seed: 1}]}")
    assert len(expand_sweep(["seed=5,6"], loader, part)) == 4
    assert short(expand_sweep(["seed=1"], loader, part)) == ["optimizer=adamw seed=1"]
    assert short(
        expand_sweep(["seed=1", "optimizer=sgd"], loader, [part, {"grid": {"seed": 0}, "zip": {"b": [1]}}])
    ) == ["b=1 seed=1 optimizer=sgd"]
    with pytest.raises(ConfigError, match="excludes every job of seed=1 optimizer=sgd; ask for other values"):
        expand_sweep(["seed=1", "optimizer=sgd"], loader, part)


WRONG = {
    "{gird: {seed: [0]}}": "nothing reads 'gird' in sweep; did you mean 'grid'?",
    "{optimizer: [sgd]}": "nothing reads 'optimizer' in sweep; there is: exclude, grid, zip",
    "{zip: {model: [mlp, cnn], lr: [1, 2, 3]}}": "model has 2, lr has 3; give each as many values",
    "{grid: {seed: [0, 1], a: 1}, exclude: [{seed: 2}]}": r"matches no job: {'seed': 2}; the axes have seed=0,1$",
    "{grid: {seed: [0, 1]}, exclude: [{sed: 1}]}": "names 'sed', which no axis has; did you mean 'seed'?",
    "{grid: {seed: []}}": r"seed of sweep has no value; give a list, as seed: \[0, 1\]",
    "{grid: {seed: }}": "seed of sweep has no value",
    "{grid: {seed: range(0)}}": r"seed=range\(0\) has no value",
    "{grid: {seed: 'interval(0, 1)'}}": "is continuous; give search=tpe",
    "{grid: {optimizer: {lr: [1]}}}": "optimizer of sweep is a mapping, .*give a list of values, or the keys as",
    "{grid: {seed: [0, 1]}, exclude: [{seed: 0}, {seed: 1}]}": "leaves no job of seed=0,1; remove an exclusion",
    "{grid: {seed: 0}, exclude: [{}]}": "leaves no job of seed=0",
    "{grid: {seed: [0, 1]}, zip: {+seed: [1]}}": "has seed twice; keep one of them",
    "{grid: [seed]}": r"grid of sweep is \['seed'\]; give keys and values",
    "{grid: }": "grid of sweep is None; give keys and values",
    "{exclude: {seed: 1}}": "exclude of sweep is {'seed': 1}; give a list of mappings",
    "seed=0,1": "sweep is 'seed=0,1'; give a mapping",
    "[]": r"sweep is \[\]; give a mapping",
    "[{grid: {seed: 0}}, 3]": "give a mapping",
    "{grid: {a: [{é: 1}]}}": "no override for a: {'é': 1} of sweep",
    "{grid: {a: [{'1': x}]}}": "no override for a: {'1': 'x'} of sweep",
    "{grid: {'a b': [1]}}": "no override for a b: 1 of sweep",
    "{grid: {a: [!!binary eA==]}}": "no override for a: b'x' of sweep",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_sweep_says_what_to_type(text, loader):
    with pytest.raises(ConfigError, match=WRONG[text]):
        expand_sweep([], loader, spec(text))


def test_an_axis_without_values_is_an_error_on_the_command_line_too(loader):
    with pytest.raises(ConfigError, match=r"seed=range\(3,3\) has no value"):
        expand_sweep(["seed=range(3,3)"], loader)


words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_ .:=,()-]*", fullmatch=True).map(str.strip)
plain_words = words.filter(lambda word: word.lower() not in ("null", "true", "false", "nan", "inf"))
numbers = st.integers() | st.floats()
keys = plain_words | numbers.filter(lambda number: number == number) | st.booleans() | st.none()
tricky = st.sampled_from(
    ["null", "True", "1", "1e-3", "-inf", "a,b", "range(3)", "${x}", "it's", '"', "\\", "\\'", "x\ny", ""]
)
scalars = numbers | st.booleans() | st.none() | st.text() | st.text("\\'\"a ,{") | tricky | words
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


@given(st.lists(values, min_size=1, max_size=3))
def test_a_value_of_yaml_reaches_hydra_as_it_is(loader, wanted):
    jobs = expand_sweep([], loader, {"grid": {"a": wanted}})
    found = [override_value(override) for (override,) in jobs]
    assert list(map(repr, found)) == list(dict.fromkeys(map(repr, wanted)))


@given(values)
def test_the_writer_s_text_reads_as_the_value_wherever_hydra_has_one(value):
    try:
        override = write_override("a", value)
    except ConfigError:
        return
    assert override == f"a={write_value(value)}"
    assert repr(override_value(override)) == repr(value)


def test_a_path_with_commas_is_one_value(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "optimizer.lr=0.1,seed=2").mkdir()
    for argument, path in (
        ("weights=optimizer.lr=0.1,seed=2", "optimizer.lr=0.1,seed=2"),
        ("+weights=./optimizer.lr=0.1,seed=2", "./optimizer.lr=0.1,seed=2"),
    ):
        assert override_value(quote_path(argument)) == path
    for argument in ("weights=a,b", "weights=.", "seed=1,2", "~weights", "--config-dir=x"):
        assert quote_path(argument) == argument


def test_words_are_not_quoted(loader):
    assert expand_sweep([], loader, {"grid": {"a": ["sgd"], "b": ["study/x-1.5"]}}) == [["a=sgd", "b=study/x-1.5"]]


def test_the_root_of_a_key_is_what_stands_at_the_top_of_the_config():
    for override in (
        "search=tpe",
        "search.trials=3",
        "++search.sampler.x=1",
        "search/sampler=random",
        "~search/pruner",
    ):
        assert root_key(override) == "search"
    assert root_key("optimizer@search=x") == "optimizer"


def test_swept_keys_are_those_whose_value_varies(loader):
    assert swept_keys(expand_sweep(["b=1", "a=1,2", "+c=x,y"], loader)) == ["a", "c"]
    assert swept_keys([["a=1", "b=1"], ["b=1"], ["b=1", "c=2"]]) == ["a", "c"]
    assert swept_keys([["lr=1", "x=0"], ["x=0", "++lr=1"]]) == []
    assert swept_keys([]) == swept_keys([["a=1"]]) == []


def test_only_plain_overrides_below_a_swept_group_become_choices():
    swept = ["optimizer=sgd,adamw", "data/aug=a,b", "task@x=a,b"]
    below = ["optimizer.momentum=0.9", "+optimizer.foo=1", "++data.aug.p=[1, 2]", "optimizer/inner=x"]
    others = ["optimizer.lr=0.1,0.2", "optimizers.a=1", "seed=1", "data.path=x", "x.y=1", "task.y=1"]
    assert wrap_in_choices(below + swept + others) == [
        "optimizer.momentum=choice(0.9)",
        "+optimizer.foo=choice(1)",
        "++data.aug.p=choice([1, 2])",
        "optimizer/inner=choice(x)",
        *swept,
        *others,
    ]
    plain = ["optimizer=sgd", "optimizer.momentum=0.9", "seed=1,2"]
    assert wrap_in_choices(plain) == plain


VALUES = [
    "0.9",
    "1e-3",
    "true",
    "null",
    "[1,'2',null]",
    "{a:1,b:['x y','é']}",
    "'x y'",
    "x y",
    "",
    "''",
]
VALUES += [
    "'1'",
    "'null'",
    "'é'",
    '"it\'s"',
    "'a,b'",
    "a\\,b",
    "'1,2'",
    "${seed}",
    "int(3.0)",
    "sort([2,1])",
    "[]",
    "{}",
    "a/b.c",
]


@pytest.mark.parametrize("text", VALUES)
def test_a_choice_of_one_is_a_sweep_that_expands_to_the_value(text, loader):
    arguments = ["optimizer=sgd,adamw", f"optimizer.x={text}"]
    rewritten = wrap_in_choices(arguments)
    assert OverridesParser.create().parse_override(rewritten[1]).is_sweep_override()
    for jobs, expected in (
        (expand_sweep(rewritten, loader), expand_sweep(arguments, loader)),
        (hydras(rewritten, loader), None),
    ):
        expected = expected or hydras(arguments, loader)
        assert [[repr(override_value(o)) for o in job] for job in jobs] == [
            [repr(override_value(o)) for o in job] for job in expected
        ]


def test_a_value_that_no_choice_gives_back_stays_as_it_is():
    arguments = ["optimizer=sgd,adamw", "optimizer.x='é b'"]
    assert wrap_in_choices(arguments) == arguments


def test_hydra_composes_a_sweep_over_a_group_with_a_key_that_the_default_lacks(loader):
    arguments = ["optimizer=sgd,muon", "~optimizer.weight_decay", "optimizer.momentum=0.5"]
    with pytest.raises(ConfigCompositionException, match=r"optimizer\.momentum"):
        loader.load_configuration("train", arguments, RunMode.MULTIRUN)
    master = loader.load_configuration("train", wrap_in_choices(arguments), RunMode.MULTIRUN)
    for job in expand_sweep(wrap_in_choices(arguments), loader):
        config = loader.load_sweep_config(master, job)
        assert config.optimizer.momentum == 0.5
        assert "weight_decay" not in config.optimizer
