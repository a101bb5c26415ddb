"""Models whose modules share tensors: every strategy treats a shared tensor as the one tensor that it is."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab.finetune.bitfit import bitfit
from lab.finetune.discriminative import discriminative
from lab.finetune.gradual import gradual
from lab.finetune.groups import Groups
from lab.finetune.l2_sp import l2_sp
from lab.finetune.last_blocks import last_blocks
from lab.finetune.layer_decay import layer_decay
from lab.finetune.linear_probe import linear_probe
from lab.finetune.lora import lora
from lab.finetune.only import only
from lab.finetune.peft import load_adapter, save_adapter
from lab.finetune.wise_ft import wise_ft
from lab.models.state_files import unwrap_state
from lab.models.weights import draw_head, load_matching
from lab.regularize.ema import EMA
from lab.regularize.swa import SWA
from tests.adapted_models import both, train_a_little


class TiedLayers(nn.Module):
    """Points (B, 8) to logits (B, 4), twice through one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.b.weight = self.a.weight
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.a(torch.relu(self.stem(x)))))))


class LanguageModel(nn.Module):
    """Tokens (B, T) of 12 kinds to logits (B, T, 12): the head is the embedding, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(12, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embed(tokens))))


POINTS = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.arange(10).view(2, 5)
WAYS = {
    "layers": (TiedLayers, POINTS, {}, ("a", "b")),
    "one of the layers": (TiedLayers, POINTS, {"targets": ["b"]}, ("a", "b")),
    "an embedding and the head": (
        LanguageModel,
        TOKENS,
        {"targets": ["embed"], "train_head": False},
        ("embed", "head"),
    ),
    "the head and an embedding": (LanguageModel, TOKENS, {"targets": ["head"], "train_head": False}, ("embed", "head")),
}


def make(kind: Callable[[], nn.Module]) -> Any:
    torch.manual_seed(0)
    return kind()


@both
@pytest.mark.parametrize("way", WAYS)
def test_a_shared_weight_is_adapted_as_one_tensor_in_training_saved_merged_and_averaged(strategy, way):
    kind, inputs, options, (first, second) = WAYS[way]
    model, plain = make(kind), make(kind)
    groups = train_a_little(strategy(model, rank=2, **options))
    parameters = [p for group in groups for p in group["params"]]
    assert len({id(p) for p in parameters}) == len(parameters)
    weights = [model.get_submodule(name).weight for name in (first, second)]
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], plain.get_submodule(first).weight)
    state = unwrap_state(dict(model.state_dict()))
    load_matching(plain, state, "a run", "0")
    assert plain.get_submodule(first).weight is plain.get_submodule(second).weight
    assert torch.allclose(plain(inputs), model(inputs), atol=1e-6)
    for average in (EMA(model, 0.9), SWA(model, 1, 1, start=0.0)):
        average.step(model)
        assert torch.allclose(average.average(inputs), model(inputs), atol=1e-6)


def test_the_gradient_of_a_shared_change_is_the_sum_over_its_modules():
    model, rank = make(TiedLayers), 2
    lora(model, rank=rank, alpha=4.0, targets=["a"])
    train_a_little([{"params": [p for name, p in model.named_parameters() if name.endswith((".up", ".down"))]}])
    plain = make(TiedLayers)
    change = model.a.parametrizations.weight[0]
    down, up = (factor.detach().clone().requires_grad_() for factor in (change.down, change.up))
    weight = plain.a.weight + 4.0 / rank * up @ down
    calls = {"a.weight": weight, "b.weight": weight}
    torch.func.functional_call(plain, calls, (POINTS,), tie_weights=False).square().sum().backward()
    model(POINTS).square().sum().backward()
    assert torch.allclose(change.down.grad, down.grad, rtol=1e-4)
    assert torch.allclose(change.up.grad, up.grad, rtol=1e-4)


@both
def test_a_weight_that_is_trained_with_the_head_cannot_be_adapted_too(strategy):
    with pytest.raises(ValueError, match=r"embed\.weight and head\.weight are one tensor.*train_head=false"):
        strategy(make(LanguageModel), targets=["embed"])


@both
def test_an_adapter_of_a_shared_weight_is_the_same_for_peft_or_refused(strategy, tmp_path):
    peft, safetensors = pytest.importorskip("peft"), pytest.importorskip("safetensors.torch")
    model = make(TiedLayers)
    train_a_little(strategy(model, rank=2, head="head"))
    save_adapter(model, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(make(TiedLayers), str(tmp_path / "ours"))
    assert torch.allclose(theirs(POINTS), model(POINTS), atol=1e-5)
    again = make(TiedLayers)
    strategy(again, rank=2, head="head", adapter=str(tmp_path / "ours"))
    assert torch.allclose(again(POINTS), model(POINTS), atol=1e-6)
    file = tmp_path / "ours" / "adapter_model.safetensors"
    tensors = safetensors.load_file(file)
    tensors["base_model.model.b.lora_A.weight"] += 1
    safetensors.save_file(tensors, file)
    with pytest.raises(ValueError, match=r"changes .*\.a\.lora_A.* and .*\.b\.lora_A.* differently"):
        load_adapter(again, tmp_path / "ours")
    language = make(LanguageModel)
    strategy(language, targets=["embed"], train_head=False)
    with pytest.raises(ValueError, match=r"no adapter for head\.weight \(it shares its weight"):
        save_adapter(language, tmp_path / "language")


STRATEGIES = {
    "discriminative": discriminative,
    "layer_decay": layer_decay,
    "gradual": gradual,
    "last_blocks": lambda model: last_blocks(model, num_blocks=1),
    "bitfit": bitfit,
    "l2_sp": lambda model: l2_sp(model, 0.1, 0.1),
    "wise_ft": wise_ft,
    "only": lambda model: only(model, ["*.weight"]),
}


@pytest.mark.parametrize("kind", [TiedLayers, LanguageModel])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_shared_tensor_is_in_one_group_of_every_strategy(name, kind):
    model = make(kind)
    groups = Groups.of(STRATEGIES[name](model)).groups
    torch.optim.SGD(groups, lr=0.1)  # which refuses a parameter that is in two groups
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_shared_tensor_goes_by_each_of_its_names():
    for name in ("embed.weight", "head.weight"):
        model = make(LanguageModel)
        (group,) = only(model, [name])
        assert [id(p) for p in group["params"]] == [id(model.head.weight)]


def test_what_would_change_more_than_the_head_is_refused_by_both_names():
    with pytest.raises(ValueError, match=r"head\.weight and embed\.weight are one tensor, so the features below"):
        linear_probe(make(LanguageModel))
    with pytest.raises(ValueError, match=r"head\.weight and embed\.weight are one tensor, so a new head"):
        draw_head(make(LanguageModel))


def test_weights_that_differ_where_the_model_has_one_tensor_are_refused():
    state = deepcopy(dict(make(TiedLayers).state_dict()))
    state["b.weight"] = state["b.weight"] + 1
    with pytest.raises(ValueError, match=r"different values for a\.weight and b\.weight, which are one tensor of Tied"):
        load_matching(make(TiedLayers), state, "w.pt", "0")
    del state["b.weight"]
    load_matching(make(TiedLayers), state, "w.pt", "0")


def test_wise_ft_mixes_a_shared_tensor_once():
    model = make(TiedLayers)
    start = model.a.weight.detach().clone()
    regularizer = wise_ft(model, mix=0.25).regularizer
    train_a_little([{"params": list(model.parameters())}])
    mixed = regularizer.model_to_score(model)
    assert mixed.a.weight is mixed.b.weight
    assert torch.allclose(mixed.a.weight, torch.lerp(start, model.a.weight, 0.25))
