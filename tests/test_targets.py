"""What a config may have called: by its group, or in another node by the annotation of its argument."""

import io
import pickle
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytest
from hydra.errors import InstantiationException
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers.implementations.base_tokenizer import BaseTokenizer
from torch import Tensor, nn

from lab.config.annotations import annotations_of
from lab.config.check import check_config, check_group
from lab.config.groups import GROUPS, retried_parts
from lab.config.targets import instantiate_node, is_plain
from lab.errors import ConfigError
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("in_root")


@pytest.fixture
def in_root(monkeypatch):
    """This file is the project's code then, as the working directory's are."""
    monkeypatch.chdir(ROOT)


class Sentences:
    """A data set of one's own, with a tokenizer."""

    num_classes, shape = 2, (4,)

    def __init__(self, tokenizer: BaseTokenizer, seed: int = 0):
        self.tokenizer = tokenizer

    batches = val = test = None


class Distillation:
    """A regularizer of one's own, with a teacher."""

    def __init__(self, model: nn.Module, teacher: nn.Module):
        self.model, self.teacher = model, teacher

    state_dict = load_state_dict = step = None


@runtime_checkable
class Closeable(Protocol):
    def close(self) -> None: ...


TOKENIZER = {"_target_": "tokenizers.implementations.ByteLevelBPETokenizer", "lowercase": True}
TEACHERS = {
    "a class": {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 2},
    "a function annotated to return a model": {"_target_": "torchvision.models.resnet18", "num_classes": 2},
    "timm's, which is not annotated": {"_target_": "timm.create_model", "model_name": "resnet10t"},
    "lab's": {"_target_": "lab.models.mlp.MLP", "shape": [4], "num_classes": 2, "hidden": [3], "dropout": 0.0},
    "a nest of them": {
        "_target_": "torch.nn.TransformerEncoder",
        "num_layers": 1,
        "encoder_layer": {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": 4, "nhead": 1},
    },
}


def data(**arguments: Any) -> dict[str, Any]:
    return {"_target_": "tests.test_targets.Sentences", **arguments}


def regularize(**arguments: Any) -> dict[str, Any]:
    return {"_target_": "tests.test_targets.Distillation", "_partial_": True, **arguments}


def test_a_data_set_takes_a_tokenizer():
    from lab.assembly.build import instantiate

    node = data(tokenizer=TOKENIZER)
    assert check_group("data", node) == []
    made = instantiate({"data": node}, "data")
    assert isinstance(made.tokenizer, BaseTokenizer)
    assert made.tokenizer.get_vocab_size() == 0


def test_a_data_set_need_not_take_the_facts_that_a_model_reads():
    from lab.assembly.build import instantiate

    node = data(tokenizer=TOKENIZER, shape=[4], num_classes=2, classes=["a", "b"], vocab_size=9)
    assert check_group("data", node) == []
    assert isinstance(instantiate({"data": node}, "data"), Sentences)
    digits = {"_target_": "lab.data.digits.digits", "batch_size": 4, "seed": 0, "shape": [3, 9, 9]}
    assert next(instantiate({"data": digits}, "data").batches())[0].shape == (4, 3, 9, 9), (
        "a fact that it takes is given"
    )


@pytest.mark.parametrize(
    ("key", "hint"), [("num_clases", "num_classes"), ("vocab_sze", "vocab_size"), ("sed", "seed"), ("meen", "seed")]
)
def test_a_key_that_is_no_fact_and_no_argument_is_refused(key, hint):
    (problem,) = check_group("data", data(tokenizer=TOKENIZER, **{key: 2}))
    assert f"data.{key}: Sentences takes no {key!r}; " in problem
    assert hint in problem
    inner = {"_target_": "tests.test_targets.Sentences", "tokenizer": TOKENIZER, "shape": [4]}
    assert "takes no 'shape'" in " ".join(check_group("model", {**inner}) + check_group("data", data(tokenizer=inner)))


@pytest.mark.parametrize("teacher", TEACHERS.values(), ids=TEACHERS)
def test_a_regularizer_takes_a_teacher(teacher):
    from lab.assembly.build import instantiate

    node = regularize(teacher=teacher)
    assert check_group("regularize", node) == []
    made = instantiate({"regularize": node}, "regularize")
    assert isinstance(made(nn.Identity()).teacher, nn.Module)


def test_a_node_of_another_kind_than_its_argument_is_refused():
    (problem,) = check_group("data", data(tokenizer=TEACHERS["a class"]))
    assert "data.tokenizer: _target_ torch.nn.Linear is not one to be run from a config" in problem
    assert "a class that makes a BaseTokenizer" in problem
    (problem,) = check_group("regularize", regularize(teacher=TOKENIZER))
    assert "a class that makes a Module" in problem
    # of the group's own kind, which the argument is not
    node = {"_target_": "tests.test_targets.Sentences", "tokenizer": {"_target_": "torch.optim.SGD", "lr": 0.1}}
    assert check_group("data", node)


def test_a_wrong_argument_of_an_inner_node_is_found():
    (problem,) = check_group("data", data(tokenizer=TOKENIZER | {"lowercas": True}))
    assert problem.startswith("data.tokenizer.lowercas: ByteLevelBPETokenizer takes no 'lowercas'")
    (problem,) = check_group("data", data(tokenizer=TOKENIZER | {"lowercase": "yes"}))
    assert problem == "data.tokenizer.lowercase='yes' is not true or false"


# every kind of annotation that an argument may have


def fill(
    plain,
    anything: Any,
    an_object: object,
    number: int,
    text: str,
    path: Path,
    optional_path: Path | None,
    a_type: type,
    a_class: type[nn.Module],
    module: nn.Module,
    optional: nn.Module | None,
    modules: list[nn.Module],
    by_name: Mapping[str, nn.Module],
    tokenizer: BaseTokenizer,
    either: BaseTokenizer | nn.Module,
    factory: Callable[..., nn.Module],
    calls: Callable[[Tensor], nn.Module],
    any_factory: Callable[..., Any],
    any_callable: Callable,
    factories: Sequence[Callable[..., nn.Module] | None],
    process: subprocess.Popen,
    unpickler: pickle.Unpickler,
    file: io.IOBase,
    text_file: io.TextIOWrapper,
    files: Iterable[io.FileIO],
    opener: Callable[..., io.IOBase],
    starter: Callable[..., subprocess.Popen],
    closeable: Closeable,
    closer: Callable[..., Closeable],
    tensor: Tensor,
    loader: Callable[..., Tensor],
    array: np.ndarray,
    image: Image.Image,
    *rest: nn.Module,
    **more: nn.Module,
) -> Any: ...


ANNOTATED = [name for name in fill.__code__.co_varnames if name not in ("rest", "more")]
ATTACKS = {
    "torch.load": {"f": "evil.pt", "weights_only": False},
    "torch.hub.load": {"repo_or_dir": "evil/evil", "model": "evil"},
    "torch.jit.load": {"f": "evil.pt"},
    "builtins.open": {"file": "precious", "mode": "w"},
    "builtins.eval": {"_args_": ["1"]},
    "builtins.exec": {"_args_": ["1"]},
    "builtins.__import__": {"name": "evil"},
    "io.open": {"file": "precious", "mode": "w"},
    "io.FileIO": {"file": "precious", "mode": "w"},
    "io.TextIOWrapper": {"buffer": None},
    "pickle.load": {"file": None},
    "pickle.loads": {"_args_": ["evil"]},
    "pickle.Unpickler": {"file": None},
    "subprocess.run": {"args": ["true"]},
    "subprocess.Popen": {"args": ["true"]},
    "subprocess.check_output": {"args": ["true"]},
    "os.system": {"command": "true"},
    "os.open": {"path": "precious", "flags": 0},
    "pathlib.Path": {"_args_": ["precious"]},
    "shutil.rmtree": {"path": "precious"},
    "importlib.import_module": {"name": "evil"},
    "numpy.load": {"file": "evil.npy", "allow_pickle": True},
    "numpy.memmap": {"filename": "precious", "mode": "w+", "shape": 1},
    "PIL.Image.open": {"fp": "precious"},
    "lab.config.targets.locate": {"target": "os.system"},
    "lab.record.environment.run_command": {"_args_": ["true"]},
}


@pytest.mark.parametrize("partial", [False, True], ids=["", "partial"])
@pytest.mark.parametrize("group", ["model", "data", "regularize", "hardware"])  # one of each kind of rule
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_annotation_lets_a_config_call_what_opens_starts_or_unpickles(attack, group, partial):
    evil = {"_target_": attack, **ATTACKS[attack]} | ({"_partial_": True} if partial else {})
    outer = {"_target_": "tests.test_targets.fill"}
    if GROUPS[group].partial == "required":
        outer["_partial_"] = True  # type: ignore[assignment]
    refused = f"_target_ {attack} is not one to be run from a config"
    for value in (evil, [evil], {"a": evil}, [[{"a": evil}]]):
        problems = check_group(group, outer | dict.fromkeys(ANNOTATED, value))
        where = {problem.split(":")[0].split(".")[1] for problem in problems if refused in problem}
        assert where == set(ANNOTATED)
    for hidden in (
        {"_args_": [evil]},
        {"_args_": [[evil]]},
        {"other": evil},
        {"_convert_": evil},
        {"module": {"a": evil}},
    ):
        assert any(refused in problem for problem in check_group(group, outer | hidden)), hidden
    inner = {"_target_": "torch.nn.Sequential", "_args_": [evil]}
    assert any(refused in problem for problem in check_group(group, outer | {"module": inner, "more": [inner]}))


def test_what_is_refused_hides_no_attack_in_it():
    evil = {"_target_": "os.system", "command": "true"}
    for outer in ("os.path.join", "nowhere.at_all", "torch.nn.Lineer"):
        problems = check_group("model", {"_target_": outer, "x": [{"_target_": "torch.nn.ReLU", "y": evil}]})
        assert any(problem.startswith("model.x.0.y: _target_ os.system") for problem in problems)


def test_a_partial_node_is_judged_by_what_its_callable_makes():
    norm = {"_target_": "torch.nn.GroupNorm", "_partial_": True, "num_groups": 2}
    outer = {"_target_": "tests.test_targets.fill"}

    def of(problems):
        return [problem for problem in problems if "is missing; fill needs it" not in problem]

    assert of(check_group("data", outer | {"factory": norm, "factories": [norm, None]})) == []
    assert of(check_group("data", outer | {"any_factory": norm}))  # as everything in data
    relu = {"_target_": "torch.nn.ReLU", "_partial_": True, "inplace": True}  # called with one argument by position
    assert of(check_group("data", outer | {"calls": relu})) == ["the runner supplies data.calls.inplace; leave it out"]
    (problem,) = of(check_group("data", outer | {"calls": {"_target_": "torch.nn.Linear", "_partial_": True}}))
    assert problem == "data.calls.out_features is missing; Linear needs it"


def test_the_annotations_of_this_file_can_be_read():
    assert len(annotations_of(fill)) == fill.__code__.co_argcount + 2  # *rest, **more and the result, but `plain`


def test_an_open_annotation_leaves_the_groups_rule():
    relu = {"_target_": "torch.nn.ReLU"}
    for name in ("plain", "anything", "an_object", "any_callable", "closeable"):
        node = {"_target_": "tests.test_targets.fill", name: relu}
        assert not any("not one to be run" in problem for problem in check_group("model", node)), name
        assert any("not one to be run" in problem for problem in check_group("data", node)), name


# the table


def test_every_group_is_in_the_defaults_list_and_the_other_way_round():
    import yaml

    entries = yaml.safe_load((ROOT / "conf" / "train.yaml").read_text())["defaults"]
    listed = {name for entry in entries if isinstance(entry, dict) for name in entry}
    assert set(GROUPS) <= listed
    assert {group for parts in retried_parts().values() for group in parts} <= set(GROUPS)


def test_a_key_is_read_where_an_interpolation_names_it_whole():
    def problems(unresolved):
        with pytest.raises(ConfigError) as refused:
            check_config({"seedling": 1, "width": 2}, unresolved)
        return [problem for problem in refused.value.problems if "nothing reads" in problem]

    assert len(problems({"seedling": 1, "width": 2})) == 2
    assert len(problems({"a": {"b": ["x${width}y"]}, "c": "${seedling.x}"})) == 0
    assert len(problems({"a": "${oc.select:width,1}", "c": "${lab.len:${seedling}}"})) == 0
    assert len(problems({"a": "${widths}", "c": "${.seedling}", "d": "${seedling:x}"})) == 2


def collect(**arguments: Any) -> dict[str, Any]:
    return {"collected": arguments}


def nested(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    mappings = st.dictionaries(st.sampled_from(["a", "b", "lr"]), values, max_size=3)
    targets = mappings.map(lambda arguments: {"_target_": "tests.test_targets.collect", **arguments})
    return st.one_of(
        st.lists(values, max_size=3), mappings, targets, targets.map(lambda node: {**node, "_partial_": True})
    )


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text("ab:/ ", max_size=4))


@given(st.recursive(PLAIN, nested, max_leaves=12))
def test_a_plain_node_makes_what_hydra_makes(value):
    from hydra.utils import instantiate

    def called(made: Any) -> Any:
        """The same nest, with what each partial gives when it is called."""
        if isinstance(made, partial):
            assert type(made) is partial or by_hydra
            return ("partial", made.func, called(made.keywords))
        if isinstance(made, dict):
            return {name: called(part) for name, part in made.items()}
        return list(map(called, made)) if isinstance(made, list) else made

    node = {"_target_": "tests.test_targets.collect", "value": value}
    by_hydra = False
    ours = called(instantiate_node(node))
    by_hydra = True
    assert is_plain(node)
    assert ours == called(instantiate(node, _convert_="all"))


@pytest.mark.parametrize(
    "keys",
    [{"_args_": [1]}, {"_convert_": "none"}, {"_recursive_": False}, {"a": "${b}"}, {"a": "???"}, {"_partial_": 1}],
)
def test_other_nodes_are_left_to_hydra(keys):
    assert not is_plain({"_target_": "tests.test_targets.collect", **keys})
    assert not is_plain({"a": [{"_target_": "tests.test_targets.collect", **keys}]})


def test_a_target_gets_lists_and_mappings_of_its_own():
    node = {"_target_": "tests.test_targets.collect", "sizes": [1, {"a": 2}]}
    made = instantiate_node(node)["collected"]["sizes"]
    made[1]["a"] = made[0] = 3
    assert node["sizes"] == [1, {"a": 2}]


def test_hydra_judges_the_targets_of_plain_nodes():
    with pytest.raises(InstantiationException, match=r"os\.remove"):
        instantiate_node({"_target_": "os.remove", "_partial_": True, "path": "kept"})
