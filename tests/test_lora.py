"""LoRA and DoRA on any model: what they train, and what they compute."""

import math
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lab.assembly.cost_estimate import estimate_cost
from lab.data.digits import digits
from lab.finetune.dora import dora
from lab.finetune.lora import lora
from lab.hardware import Hardware
from lab.models.low_rank import merge_low_rank
from lab.models.mlp import MLP
from lab.models.resnet_cifar import ResNet
from lab.models.torchvision import torchvision_model
from lab.optim.schedules import cosine
from lab.record.checkpoints import load_checkpoint, save_checkpoint
from lab.regularize.chain import Chain
from lab.regularize.ema import EMA
from lab.run import Run, cadence
from lab.tasks.classification import Classification
from lab.train.loop import train
from lab.train.scoring import set_training_mode
from lab.train.state import restore_snapshot, take_snapshot
from tests.adapted_models import (
    IMAGES,
    MODELS,
    both,
    count_by_group,
    count_parameters,
    every_model,
    make_model,
    train_a_little,
)


@both
@every_model
def test_a_model_computes_the_same_bits_until_it_is_trained(strategy, name):
    model = make_model(name)
    before = model(IMAGES)
    strategy(model, rank=2)
    assert torch.equal(model(IMAGES), before)


@both
@every_model
def test_every_tensor_that_is_trained_has_a_part_in_the_output_and_no_other_has_a_gradient(strategy, name):
    model = make_model(name)
    whole = {key for key, p in model.named_parameters() if p.dim() > 1 and not key.startswith("head")}
    groups = train_a_little(strategy(model, rank=2))
    model(IMAGES).square().sum().backward()
    trained = {id(p) for group in groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        assert (id(parameter) in trained) == parameter.requires_grad
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, key
    adapted = {key.replace("parametrizations.", "") for key in model.state_dict() if key.endswith(".original")}
    assert {key.removesuffix(".original") for key in adapted} == whole


@both
@every_model
def test_a_copy_a_move_and_a_reload_compute_the_same(strategy, name):
    model = make_model(name)
    groups = train_a_little(strategy(model, rank=2))
    after = model(IMAGES)
    assert not torch.allclose(after, make_model(name)(IMAGES), atol=1e-3)
    again = make_model(name)
    strategy(again, rank=2)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(deepcopy(model)(IMAGES), again(IMAGES))
        assert torch.allclose(again(IMAGES), after, atol=1e-6)  # attention has a kernel of its own without gradients
        average = EMA(model, decay=0.0)
        train_a_little(groups)
        average.step(model)
        assert torch.allclose(average.model_to_score(model)(IMAGES), model(IMAGES), atol=1e-6)
        assert torch.allclose(deepcopy(model).double()(IMAGES.double()).float(), model(IMAGES), atol=1e-5)


@both
@every_model
def test_merged_weights_are_those_of_a_plain_model_that_computes_the_same(strategy, name):
    model, plain = make_model(name), make_model(name)
    train_a_little(strategy(model, rank=2))
    state = merge_low_rank(model.state_dict())
    assert state.keys() == plain.state_dict().keys()
    plain.load_state_dict(state)
    assert torch.allclose(plain(IMAGES), model(IMAGES), atol=1e-6)
    assert merge_low_rank(state) == state


@both
@every_model
def test_a_functional_call_and_mixed_precision_use_the_adapter(strategy, name):
    model = make_model(name)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    before = model(IMAGES)
    train_a_little([group for group in strategy(model, rank=2) if group["name"] != "head"])
    zeros = {key: torch.zeros_like(p) for key, p in model.named_parameters() if key.endswith(".up")}
    if strategy is lora:
        assert torch.equal(torch.func.functional_call(model, zeros, IMAGES), before)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(IMAGES)
    assert torch.allclose(rounded.float(), model(IMAGES), atol=0.03)
    rounded.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in start.items() if key in own)


def test_roberta_base_has_as_many_parameters_as_the_paper_says():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.RobertaForSequenceClassification(transformers.RobertaConfig())
    groups = lora(model, rank=8, targets=["*.query", "*.value"])
    assert count_by_group(groups)["lora"] == 12 * 2 * 8 * (768 + 768) == 294_912  # table 2: 0.3 M, the head not counted
    assert count_by_group(groups)["head"] == count_parameters(model.classifier.parameters())


def test_a_vision_transformer_has_a_rank_for_every_weight():
    width, hidden, patch = 768, 3072, 3 * 16 * 16
    ours = [(patch, width)] + 12 * [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]
    counts = {}
    for strategy in (lora, dora):
        with torch.device("meta"):
            model = torchvision_model("vit_b_16", 10, [3, 224, 224])
            counts[strategy] = count_by_group(strategy(model, rank=4))
    assert counts[lora] == {"lora": sum(4 * (a + b) for a, b in ours), "head": 10 * width + 10}
    assert counts[dora] == {**counts[lora], "magnitude": sum(b for _, b in ours)}


def test_what_reads_a_weight_past_its_module_finds_the_changed_one():
    """As shifted windows do: torchvision's Swin hands its linear layers' weights to a function."""
    torch.manual_seed(0)
    model = torchvision_model("swin_t", 4, [3, 32, 32])
    groups = lora(model, rank=2, targets=["features.1.0.attn.qkv", "features.1.0.attn.proj"])
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    ups = [p for name, p in model.named_parameters() if name.endswith(".up")]
    assert len(ups) == 2
    assert all(p.grad is not None and p.grad.any() for p in ups)
    assert count_by_group(groups)["lora"] == 2 * (96 + 3 * 96) + 2 * (96 + 96)


def test_the_start_and_the_keys_are_those_of_the_authors_code():
    torch.manual_seed(0)
    model = ResNet(3, [3, 32, 32], 10)
    lora(model, rank=8, alpha=16)
    keys = [key for key in model.state_dict() if key.startswith("layer1.0.conv1.")]
    assert keys == [
        f"layer1.0.conv1.parametrizations.weight.{part}" for part in ("original", "0.down", "0.up", "0.scale")
    ]
    state = model.state_dict()
    down, up, scale = (state[key] for key in keys[1:])
    assert (down.shape, up.shape) == ((8, 16 * 9), (16, 8))
    assert scale == 16 / 8
    assert not up.any()
    assert down.abs().max() <= 1 / math.sqrt(16 * 9) < 1.1 * down.abs().max()
    embedding = nn.Sequential(nn.Embedding(50, 6), nn.Linear(6, 2))
    lora(embedding, rank=3, targets=["0"])
    state = embedding.state_dict()
    down, up = (state[f"0.parametrizations.weight.0.{part}"] for part in ("down", "up"))
    assert (down.shape, up.shape) == ((3, 50), (6, 3))
    assert not down.any()
    assert up.std() > 0.5


def test_targets_are_patterns_over_what_can_be_adapted():
    model = ResNet(3, [3, 32, 32], 10)
    lora(model, rank=2, targets=["layer3.*"])
    adapted = {key.split(".parametrizations")[0] for key in model.state_dict() if "parametrizations" in key}
    assert adapted == {f"layer3.{block}.conv{n}" for block in range(3) for n in (1, 2)}
    with pytest.raises(ValueError, match=r"layer9.*module that LoRA can adapt.*conv1, layer1\.0\.conv1"):
        lora(ResNet(3, [3, 32, 32], 10), targets=["layer9.*"])
    with pytest.raises(ValueError, match="rank 0 is not at least 1"):
        lora(ResNet(3, [3, 32, 32], 10), rank=0)
    with pytest.raises(ValueError, match=r"alpha 0\.0 is not positive"):
        lora(ResNet(3, [3, 32, 32], 10), alpha=0.0)
    with pytest.raises(ValueError, match=r"targets=\[\] names nothing to adapt"):
        lora(ResNet(3, [3, 32, 32], 10), targets=[])
    with pytest.raises(ValueError, match=r"no module before its head 'head'"):
        lora(MLP([3, 8, 8], 4, []), head="head")
    text = nn.Sequential(nn.Embedding(50, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    assert count_by_group(lora(text, rank=1)) == {"lora": 12, "head": 14}  # embeddings are adapted by name alone
    text = nn.Sequential(nn.Embedding(50, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    assert count_by_group(lora(text, rank=1, targets=["*"], train_head=False)) == {"lora": 56 + 12 + 8}


def test_frozen_normalisations_keep_their_statistics():
    model = make_model("convolutions")
    train_a_little(lora(model, rank=2))
    before = model.norm.running_mean.clone()
    set_training_mode(model)
    model(IMAGES)
    assert torch.equal(model.norm.running_mean, before)


def test_dora_is_equation_5_with_the_norm_held_constant():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3))
    start, x = model[0].weight.detach().clone(), torch.rand(7, 5)
    train_a_little(dora(model, rank=2, alpha=4))
    state = {key: p for key, p in model.named_parameters() if key.startswith("0.parametrizations")}
    _, down, up, magnitude = state.values()
    (x @ model[0].weight.T).square().sum().backward()
    found = [p.grad.clone() for p in (down, up, magnitude)]
    for p in (down, up, magnitude):
        p.grad = None
    v = start + 4 / 2 * up @ down
    by_hand = magnitude[:, None] * v / v.norm(dim=1, keepdim=True).detach()
    assert torch.allclose(model[0].weight, by_hand)
    (x @ by_hand.T).square().sum().backward()
    assert all(torch.allclose(a, p.grad, rtol=1e-4) for a, p in zip(found, (down, up, magnitude), strict=True))


def test_dora_leaves_a_row_of_zeros_as_it_is():
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[1] = 0
    dora(model, rank=2)
    model(torch.rand(2, 5)).sum().backward()
    assert not model[0].weight[1].any()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@both
def test_a_cnn_stays_in_channels_last(strategy):
    model = make_model("convolutions")
    before = model(IMAGES)
    strategy(model, rank=2)
    Hardware("cpu", channels_last=True).place(model)
    assert model.grouped.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(model(IMAGES.contiguous(memory_format=torch.channels_last)), before, atol=1e-6)


@pytest.mark.slow
@both
def test_a_compiled_model_is_the_same(strategy):
    model = make_model("attention")
    train_a_little(strategy(model, rank=2))
    after = model(IMAGES)
    compiled = torch.compile(model, backend="aot_eager")(IMAGES)
    assert torch.allclose(compiled, after, atol=1e-6)
    compiled.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@both
@every_model
def test_the_cost_of_a_step_can_be_found_without_taking_it(strategy, name):
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = MODELS[name]()
        return model, torch.optim.AdamW(strategy(model, rank=2))

    model, _ = make()
    found = estimate_cost(
        make, SimpleNamespace(loss=lambda model, x: model(x).square().mean()), IMAGES, Hardware("cpu")
    )
    assert found.parameters == count_parameters(model.parameters())
    assert found.trainable == count_parameters(p for p in model.parameters() if p.requires_grad)
    assert (found.flops is None) == (name == "recurrent")  # as without an adapter: the LSTM's kernel is fused


@both
def test_a_resumed_run_ends_in_the_same_bits(strategy, tmp_path):
    def make() -> Run:
        torch.manual_seed(0)
        data, model = digits(batch_size=64, seed=0), MLP([1, 8, 8], 10, hidden=[32])
        groups = strategy(model, rank=2)
        optimizer = torch.optim.AdamW(groups, lr=0.01)
        pace = cadence(12, data.steps_per_epoch)
        say = Chain([EMA(model, decay=0.9)])
        parts = {"regularize": say, "hardware": Hardware("cpu")}
        return Run(model, Classification(10), data, optimizer, cosine(optimizer, 12), pace, **parts)

    unbroken, broken, resumed = make(), make(), make()
    list(train(unbroken))
    for step in train(broken):
        if step.n == 5:
            save_checkpoint(tmp_path / "state.pt", take_snapshot(broken))
            break
    restore_snapshot(resumed, load_checkpoint(tmp_path / "state.pt"))
    list(train(resumed, after=5))
    for key, value in unbroken.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    frozen = [key for key in unbroken.model.state_dict() if key.endswith("original")]
    start = make().model.state_dict()
    assert frozen
    assert all(torch.equal(start[key], unbroken.model.state_dict()[key]) for key in frozen)
