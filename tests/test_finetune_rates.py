"""The learning rates and starting epochs that strategies give to their groups, and how they reach the optimizer."""

import json
import math
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lab.assembly.build import build_optimizer
from lab.data.digits import digits
from lab.finetune.discriminative import discriminative
from lab.finetune.gradual import gradual
from lab.finetune.layer_decay import layer_decay
from lab.finetune.lp_ft import lp_ft
from lab.hardware import Hardware
from lab.models.resnet_cifar import ResNet
from lab.models.simple_cnn import SimpleCNN
from lab.run import Run, cadence
from lab.tasks.classification import Classification
from lab.train.loop import train
from lab.train.state import restore_snapshot, take_snapshot
from tests.finetune_runs import Reader, groups_by_name, make_run, resnet18, resnet20, timm_vit, vit_b_16


def lr_scales(groups: list[dict]) -> dict[str, float]:
    return {group["name"]: group["lr_scale"] for group in groups}


# a ResNet-18's blocks from the top; its first normalisation belongs to its first convolution
FROM_ABOVE = [*(f"layer{stage}.{block}" for stage in (4, 3, 2, 1) for block in (1, 0)), "conv1"]


def test_discriminative_rates_fall_by_the_factor_from_block_to_block():
    """ULMFiT, sec. 3.2: eta of layer l - 1 is eta of layer l over 2.6."""
    assert lr_scales(discriminative(Reader())) == pytest.approx({"head": 1, "lstm": 1 / 2.6, "embedding": 1 / 2.6**2})
    found = lr_scales(discriminative(resnet18(), factor=2.0))
    assert list(found) == ["fc", *FROM_ABOVE]
    assert list(found.values()) == [2.0**-n for n in range(10)]
    model = vit_b_16()
    lowest = groups_by_name(model, discriminative(model))["conv_proj"]
    assert lowest == {"class_token", "encoder.pos_embedding", "conv_proj.weight", "conv_proj.bias"}


def test_layer_decay_numbers_the_layers_as_beit_and_timm():
    from timm.optim import param_groups_layer_decay

    model = timm_vit()
    names = {id(p): name for name, p in model.named_parameters()}
    ours, theirs = (
        {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
        for groups in (layer_decay(model, decay=0.7), param_groups_layer_decay(model, layer_decay=0.7))
    )
    assert ours["pos_embed"] == pytest.approx(0.7**13)
    assert ours["blocks.0.attn.qkv.weight"] == pytest.approx(0.7**12)
    # timm has the last normalisation in the last block; BEiT's get_num_layer has it beside the head
    assert {name for name in ours if ours[name] != pytest.approx(theirs[name])} == {"norm.weight", "norm.bias"}
    assert ours["norm.weight"] == ours["head.weight"] == 1


def test_layer_decay_finds_the_layers_of_models_that_are_no_transformers():
    assert list(lr_scales(layer_decay(resnet20(), decay=0.5)).values()) == [0.5**n for n in range(11)]
    model = resnet20()
    found = groups_by_name(model, layer_decay(model))
    assert found["layer 0"] == {"conv1.weight", "bn1.weight", "bn1.bias"}
    assert lr_scales(layer_decay(Reader(), decay=0.5)) == {"layer 2": 1, "layer 1": 0.5, "layer 0": 0.25}
    assert lr_scales(layer_decay(SimpleCNN([1, 8, 8], 10), decay=0.5)) == {"layer 1": 1, "layer 0": 0.5}


def test_gradual_thaws_a_block_at_a_time_from_the_head_down():
    groups = gradual(resnet18(), epochs_per_block=0.5)
    assert [group["name"] for group in groups] == ["fc", *FROM_ABOVE]
    assert [group["from_epoch"] for group in groups] == [0.5 * n for n in range(10)]


def test_lp_ft_trains_the_head_from_the_start_and_the_body_later():
    head, body = lp_ft(resnet20(), probe_epochs=3, body_lr_scale=0.1)
    assert (head["name"], head.get("from_epoch", 0), head.get("lr_scale", 1)) == ("head", 0, 1)
    assert (body["name"], body["from_epoch"], body["lr_scale"]) == ("body", 3, 0.1)


OPTIMIZERS = {
    "sgd": {"_target_": "torch.optim.SGD", "lr": 0.1},
    "adamw": {"_target_": "torch.optim.AdamW", "lr": 0.001},
    "muon": {"_target_": "lab.optim.muon.Muon", "lr": 0.02, "adamw_lr": 0.0003},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("strategy", [discriminative, layer_decay])
def test_a_groups_rate_reaches_the_optimizer_through_schedule_and_resume(optimizer, strategy):
    node = OPTIMIZERS[optimizer]
    config = {
        "optimizer": {**node, "_partial_": True},
        "schedule": {"_target_": "lab.optim.schedules.cosine", "_partial_": True},
    }

    def make() -> Run:
        torch.manual_seed(0)
        model = ResNet(1, [1, 8, 8], 10)
        groups = strategy(model)
        pace = cadence(10, steps_per_epoch=4)
        parts = build_optimizer(config, SimpleNamespace(weight_decay_on="all"), groups, pace)
        return Run(model, Classification(10), digits(batch_size=32, seed=0), *parts, pace, hardware=Hardware("cpu"))

    def expected(run: Run, taken: int) -> list[float]:
        by_name = lr_scales(strategy(ResNet(1, [1, 8, 8], 10)))
        annealed = (1 + math.cos(math.pi * taken / 10)) / 2
        matrices = [all(p.dim() == 2 for p in group["params"]) for group in run.optimizer.param_groups]
        bases = [node["lr"] if matrix else node.get("adamw_lr", node["lr"]) for matrix in matrices]
        names = [group["name"] for group in run.optimizer.param_groups]
        return [base * by_name[name] * annealed for base, name in zip(bases, names, strict=True)]

    def rates(run: Run) -> list[float]:
        return [group["lr"] for group in run.optimizer.param_groups]

    run, resumed = make(), make()
    assert rates(run) == pytest.approx(expected(run, 0))
    steps = train(run)
    for taken in range(1, 5):
        next(steps)
        assert rates(run) == pytest.approx(expected(run, taken))
    restore_snapshot(resumed, take_snapshot(run))
    assert rates(resumed) == rates(run)
    next(train(resumed, after=4))
    assert rates(resumed) == pytest.approx(expected(run, 5))


def test_the_rate_that_is_shown_is_the_groups_own_and_not_that_of_a_warmups_first_step(lab, tmp_path):
    asked = ["finetune_strategy=discriminative", "optimizer=sgd", "optimizer.lr=0.26", "schedule=warmup_cosine"]
    ended = lab("train", *asked, "steps=40", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    groups = json.loads((tmp_path / "run" / "manifest.json").read_text())["groups"]
    assert {group["name"]: group["lr"] for group in groups} == pytest.approx({"head": 0.26, "conv": 0.1})


def test_a_step_of_sgd_is_the_gradient_times_the_blocks_own_rate():
    run = make_run(discriminative, optimizer=partial(torch.optim.SGD, lr=0.05), steps=1)
    reference = deepcopy(run.model)
    images, labels = run.data.prepare(next(run.data.batches(0)))
    F.cross_entropy(reference.train()(images), labels).backward()
    list(train(run))
    for block, depth in (("linear", 0), ("layer3.0", 1), ("conv1", 4)):
        after, start = run.model.get_submodule(block), reference.get_submodule(block)
        for p, q in zip(after.parameters(), start.parameters(), strict=True):
            torch.testing.assert_close(p, q - 0.05 / 2.6**depth * q.grad, rtol=1e-5, atol=1e-7)
