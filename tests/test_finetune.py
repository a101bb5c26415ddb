"""Each strategy trains exactly what it names, at the rates and in the phases of its paper."""

import json
import math
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lab.build.build import build_optimizer
from lab.data.digits import digits
from lab.finetune.bitfit import bitfit
from lab.finetune.discriminative import discriminative
from lab.finetune.full import full
from lab.finetune.gradual import gradual
from lab.finetune.l2_sp import L2SP, l2_sp
from lab.finetune.last_blocks import last_blocks
from lab.finetune.layer_decay import layer_decay
from lab.finetune.linear_probe import linear_probe
from lab.finetune.lp_ft import lp_ft
from lab.finetune.norm_only import norm_only
from lab.finetune.only import only
from lab.finetune.scratch import scratch
from lab.finetune.surgical import surgical
from lab.finetune.wise_ft import WiseFT, wise_ft
from lab.hardware import Hardware
from lab.models.blocks import block_names, head_name, repeated_blocks
from lab.models.resnet_cifar import ResNet
from lab.models.simple_cnn import SimpleCNN
from lab.models.torchvision import torchvision_model
from lab.optim.schedules import constant
from lab.record.record import Record
from lab.regularize.chain import Chain
from lab.regularize.ema import EMA
from lab.run import Run, cadence
from lab.tasks.classification import Classification
from lab.train.batches import first_epoch
from lab.train.loop import execute, train
from lab.train.scoring import scored_model, set_training_mode
from lab.train.state import restore_snapshot, take_snapshot


def resnet20() -> nn.Module:
    return ResNet(3, [3, 32, 32], 10)


def resnet18() -> nn.Module:
    with torch.device("meta"):
        return torchvision_model("resnet18", 10, [3, 224, 224])


def vit_b_16() -> nn.Module:
    with torch.device("meta"):
        return torchvision_model("vit_b_16", 10, [3, 224, 224])


def timm_vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        return timm.create_model("vit_tiny_patch16_224", num_classes=10)


class Reader(nn.Module):
    """Tokens (B, T) to logits (B, 4): an embedding, two LSTM layers, a linear head."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.lstm = nn.LSTM(16, 32, num_layers=2, batch_first=True)
        self.head = nn.Linear(32, 4)


# parameters of one block of a ViT with width d: attention, MLP of 4 d, two normalisations
def vit_block(d: int) -> int:
    return 4 * d * d + 4 * d + 8 * d * d + 5 * d + 4 * d


LSTM_BIASES = 2 * 2 * 4 * 32
LSTM = 4 * 32 * (16 + 32) + 4 * 32 * (32 + 32) + LSTM_BIASES
HEAD = {"resnet20": 650, "resnet18": 5130, "vit_b_16": 7690, "timm_vit": 1930, "Reader": 132}
ALL = {
    "resnet20": 269_722,
    "resnet18": 11_181_642,
    "vit_b_16": 85_806_346,
    "timm_vit": 5_526_346,
    "Reader": 1600 + LSTM + 132,
}
BN20 = 16 + 6 * (16 + 32 + 64)  # channels of ResNet-20's normalisations
BN18 = 64 + 4 * 64 + 5 * (128 + 256 + 512)  # of ResNet-18's

# model, strategy, and of each of its groups which parameters it has (a regular expression) and how many
TRAINED = [
    (resnet20, full, {"all": (".*", ALL["resnet20"])}),
    (resnet20, scratch, {"all": (".*", ALL["resnet20"])}),
    (resnet20, wise_ft, {"all": (".*", ALL["resnet20"])}),
    (resnet20, linear_probe, {"head": (r"linear\..*", 650)}),
    (
        resnet20,
        partial(last_blocks, num_blocks=2),
        {"blocks": (r"layer3\.[12]\..*", 2 * (2 * 9 * 64 * 64 + 4 * 64)), "head": (r"linear\..*", 650)},
    ),
    (resnet20, bitfit, {"biases": (r".*bn\d\.bias", BN20), "head": (r"linear\..*", 650)}),
    (resnet20, partial(bitfit, train_head=False), {"biases": (r".*\.bias", BN20 + 10)}),
    (resnet20, norm_only, {"normalisations": (r".*bn\d\.(weight|bias)", 2 * BN20), "head": (r"linear\..*", 650)}),
    (resnet20, partial(norm_only, train_head=False), {"normalisations": (r".*bn\d\..*", 2 * BN20)}),
    (
        resnet20,
        partial(only, match=["layer3.*", "*.bias"]),
        {"layer3.*": (r"layer3\..*(?<!bias)", 9 * 64 * (32 + 5 * 64) + 6 * 64), "*.bias": (r".*\.bias", BN20 + 10)},
    ),
    (
        resnet20,
        surgical,
        {"block": (r"(conv1|bn1|layer1\.0)\..*", 432 + 32 + 4672), "head": (r"linear\..*", 650)},
    ),
    # the first block of the authors' code is the stem and the first stage
    (
        resnet20,
        partial(surgical, block="layer1", train_head=False),
        {"block": (r"(conv1|bn1|layer1)\..*", 432 + 32 + 3 * 4672)},
    ),
    (resnet20, partial(surgical, block="layer2.1", train_head=False), {"block": (r"layer2\.1\..*", 18_560)}),
    (resnet20, partial(surgical, block="linear"), {"head": (r"linear\..*", 650)}),
    (
        resnet20,
        partial(l2_sp, alpha=0.1, beta=0.01),
        {"pretrained": (r"(?!linear).*", ALL["resnet20"] - 650), "new": (r"linear\..*", 650)},
    ),
    (
        resnet20,
        partial(lp_ft, probe_epochs=1),
        {"head": (r"linear\..*", 650), "body": (r"(?!linear).*", ALL["resnet20"] - 650)},
    ),
    (resnet18, full, {"all": (".*", ALL["resnet18"])}),
    (resnet18, linear_probe, {"head": (r"fc\..*", 5130)}),
    (resnet18, bitfit, {"biases": (r"(?!fc).*\.bias", BN18), "head": (r"fc\..*", 5130)}),
    (
        resnet18,
        norm_only,
        {"normalisations": (r".*(bn\d|downsample\.1)\..*", 2 * BN18), "head": (r"fc\..*", 5130)},
    ),
    (
        resnet18,
        surgical,
        {"block": (r"(conv1|bn1|layer1\.0)\..*", 9408 + 128 + 73_984), "head": (r"fc\..*", 5130)},
    ),
    # Ben Zaken et al. 2022, table 1: attention 3 d + d, MLP 4 d + d, two normalisations 2 d; a patch's d, the last 1 d
    (vit_b_16, bitfit, {"biases": (r"(?!heads).*bias", 768 * (12 * 11 + 2)), "head": (r"heads\..*", 7690)}),
    (
        vit_b_16,
        norm_only,
        {"normalisations": (r".*\.(ln|ln_1|ln_2)\..*", 25 * 2 * 768), "head": (r"heads\..*", 7690)},
    ),
    (
        vit_b_16,
        surgical,
        {
            "block": (
                r"class_token|conv_proj\..*|encoder\.pos_embedding|.*encoder_layer_0\..*",
                768 * (1 + 3 * 256 + 1 + 197) + vit_block(768),
            ),
            "head": (r"heads\..*", 7690),
        },
    ),
    (vit_b_16, linear_probe, {"head": (r"heads\..*", 7690)}),
    (timm_vit, bitfit, {"biases": (r"(?!head).*bias", 192 * (12 * 11 + 2)), "head": (r"head\..*", 1930)}),
    (timm_vit, norm_only, {"normalisations": (r".*norm\d?\..*", 25 * 2 * 192), "head": (r"head\..*", 1930)}),
    (timm_vit, linear_probe, {"head": (r"head\..*", 1930)}),
    (Reader, bitfit, {"biases": (r"lstm\.bias_[ih]h_l[01]", LSTM_BIASES), "head": (r"head\..*", 132)}),
    (Reader, norm_only, {"head": (r"head\..*", 132)}),
    (Reader, partial(last_blocks, num_blocks=1), {"blocks": (r"lstm\..*", LSTM), "head": (r"head\..*", 132)}),
    (Reader, surgical, {"block": (r"embedding\..*", 1600), "head": (r"head\..*", 132)}),
    (
        Reader,
        partial(only, match=["lstm.*_l1"]),
        {"lstm.*_l1": (r"lstm\..*_l1", 2 * 4 * 32 * 32 + 2 * 4 * 32)},
    ),
    (
        Reader,
        partial(l2_sp, alpha=1.0, beta=1.0),
        {"pretrained": (r"(?!head).*", ALL["Reader"] - 132), "new": (r"head\..*", 132)},
    ),
]


def groups_by_name(model: nn.Module, groups: list[dict]) -> dict[str, set[str]]:
    """The names of each group's parameters. No parameter is in two; those that require gradients are in one."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = {group["name"]: {names[id(p)] for p in group["params"]} for group in groups}
    everything = [name for group in groups for name in (names[id(p)] for p in group["params"])]
    assert len(everything) == len(set(everything))
    assert set(everything) == {name for name, p in model.named_parameters() if p.requires_grad}
    return found


def trained(model: nn.Module, groups: list[dict]) -> set[str]:
    return set().union(*groups_by_name(model, groups).values())


@pytest.mark.parametrize(("make", "strategy", "expected"), TRAINED)
def test_a_strategy_trains_exactly_what_its_paper_names(make, strategy, expected):
    model = make()
    groups = strategy(model)
    found = groups_by_name(model, groups)
    assert found.keys() == expected.keys()
    for group in groups:
        pattern, count = expected[group["name"]]
        assert found[group["name"]] == {name for name, _ in model.named_parameters() if re.fullmatch(pattern, name)}
        assert sum(p.numel() for p in group["params"]) == count


@pytest.mark.parametrize("make", [resnet20, resnet18, vit_b_16, timm_vit, Reader])
@pytest.mark.parametrize(
    "strategy",
    [
        full,
        discriminative,
        layer_decay,
        gradual,
        wise_ft,
        partial(lp_ft, probe_epochs=2),
        partial(l2_sp, alpha=0.1, beta=0.01),
        partial(only, match=["*"]),
    ],
)
def test_a_strategy_for_all_of_a_model_leaves_no_parameter_out(make, strategy):
    model = make()
    for p in model.parameters():
        p.requires_grad_(False)
    groups = strategy(model)
    assert trained(model, groups) == dict(model.named_parameters()).keys()
    assert sum(p.numel() for group in groups for p in group["params"]) == ALL[make.__name__]
    assert sum(p.numel() for p in model.get_submodule(head_name(model)).parameters()) == HEAD[make.__name__]


def test_a_model_without_the_parts_that_a_strategy_trains_is_refused_with_those_it_has():
    bare = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with pytest.raises(ValueError, match=r"no bias.*0\.weight, 2\.weight"):
        bitfit(bare)
    with pytest.raises(ValueError, match=r"no normalisation.*Linear, ReLU"):
        norm_only(bare, train_head=False)
    with pytest.raises(ValueError, match=r"'layer9\.\*' matches no parameter of ResNet.*conv1\.weight, bn1\.weight"):
        only(resnet20(), match=["layer1.*", "layer9.*"])
    with pytest.raises(ValueError, match=r"no module 'layer1\.7'.*layer1\.2, layer2\.0"):
        surgical(resnet20(), block="layer1.7")
    with pytest.raises(ValueError, match="no module 'hed'"):
        linear_probe(resnet20(), head="hed")
    with pytest.raises(ValueError, match=r"num_blocks 20.*layer3\.2"):
        last_blocks(resnet20(), num_blocks=20)


@pytest.mark.parametrize(
    "nonsense",
    [
        partial(discriminative, factor=0.0),
        partial(layer_decay, decay=1.5),
        partial(gradual, epochs_per_block=0.0),
        partial(lp_ft, probe_epochs=0),
        partial(lp_ft, probe_epochs=1, body_lr_scale=-1.0),
        partial(l2_sp, alpha=-1.0, beta=0.0),
        partial(wise_ft, mix=1.1),
    ],
)
def test_a_number_out_of_its_range_is_refused(nonsense):
    with pytest.raises(ValueError, match=r"is not|must not"):
        nonsense(resnet20())


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("resnet18", ["layer4.0", "layer4.1", "fc"]),
        ("vit_b_16", ["encoder.layers.encoder_layer_11", "encoder.ln", "heads.head"]),
        ("mobilenet_v2", ["features.17", "features.18", "classifier.1"]),
        ("convnext_tiny", ["features.7.2", "classifier.0", "classifier.2"]),
    ],
)
def test_blocks_are_what_the_author_stacked(name, last):
    with torch.device("meta"):
        model = torchvision_model(name, 10, [3, 224, 224])
    names = block_names(model)
    assert names[-3:] == last
    covered = [id(p) for block in names for p in model.get_submodule(block).parameters()]
    assert len(covered) == len(set(covered))


def test_what_is_around_the_whole_of_a_model_is_no_block_of_it():
    class Around(nn.Module):
        def __init__(self, model: nn.Module):
            super().__init__()
            self.model = model

    inside = SimpleCNN([1, 8, 8], 10)
    assert block_names(Around(inside)) == [f"model.{name}" for name in block_names(inside)]
    assert head_name(Around(inside)) == "model.head", "not all of it, to which linear_probe is the same as full"
    assert block_names(Around(nn.LSTM(2, 2))) == ["model"]


def test_the_stack_is_what_a_model_repeats_and_the_head_what_its_library_says():
    assert repeated_blocks(vit_b_16()) == [f"encoder.layers.encoder_layer_{n}" for n in range(12)]
    assert repeated_blocks(Reader()) == repeated_blocks(SimpleCNN([1, 8, 8], 10)) == []
    assert block_names(nn.Linear(2, 2)) == [""]
    layer = partial(nn.TransformerEncoderLayer, 8, 2, dim_feedforward=8)
    parts = {"tokens": nn.Embedding(9, 8), "places": nn.Embedding(9, 8), "layers": nn.Sequential(layer(), layer())}
    assert repeated_blocks(nn.Sequential(nn.ModuleDict(parts), nn.Linear(8, 2))) == ["0.layers.0", "0.layers.1"]
    alone = nn.Linear(2, 2)
    assert trained(alone, gradual(alone)) == {"weight", "bias"}
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        convnext = timm.create_model("convnext_atto", num_classes=10)
    assert trained(convnext, linear_probe(convnext)) == {"head.fc.weight", "head.fc.bias"}
    assert trained(convnext, discriminative(convnext)) == dict(convnext.named_parameters()).keys()


def scales(groups: list[dict]) -> dict[str, float]:
    return {group["name"]: group["lr_scale"] for group in groups}


# a ResNet-18's blocks; its first normalisation belongs to its first convolution
FROM_ABOVE = [*(f"layer{stage}.{block}" for stage in (4, 3, 2, 1) for block in (1, 0)), "conv1"]


def test_a_normalisation_between_blocks_is_no_block_of_its_own():
    model = vit_b_16()
    last = {name for name, _ in model.named_parameters() if "encoder_layer_11" in name}
    assert trained(model, last_blocks(model, num_blocks=1)) == {
        *last,
        *("encoder.ln.weight", "encoder.ln.bias", "heads.head.weight", "heads.head.bias"),
    }
    assert trained(model, last_blocks(model, num_blocks=0)) == {"heads.head.weight", "heads.head.bias"}
    model = resnet18()
    assert groups_by_name(model, gradual(model))["conv1"] == {"conv1.weight", "bn1.weight", "bn1.bias"}


def test_discriminative_rates_fall_by_the_factor_from_block_to_block():
    """ULMFiT, sec. 3.2: eta of layer l - 1 is eta of layer l over 2.6."""
    assert scales(discriminative(Reader())) == pytest.approx({"head": 1, "lstm": 1 / 2.6, "embedding": 1 / 2.6**2})
    found = scales(discriminative(resnet18(), factor=2.0))
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
    assert list(scales(layer_decay(resnet20(), decay=0.5)).values()) == [0.5**n for n in range(11)]
    model = resnet20()
    found = groups_by_name(model, layer_decay(model))
    assert found["layer 0"] == {"conv1.weight", "bn1.weight", "bn1.bias"}
    assert scales(layer_decay(Reader(), decay=0.5)) == {"layer 2": 1, "layer 1": 0.5, "layer 0": 0.25}
    assert scales(layer_decay(SimpleCNN([1, 8, 8], 10), decay=0.5)) == {"layer 1": 1, "layer 0": 0.5}


def test_gradual_thaws_a_block_at_a_time_from_the_head_down():
    groups = gradual(resnet18(), epochs_per_block=0.5)
    assert [group["name"] for group in groups] == ["fc", *FROM_ABOVE]
    assert [group["from_epoch"] for group in groups] == [0.5 * n for n in range(10)]


def test_lp_ft_trains_the_head_from_the_start_and_the_body_later():
    head, body = lp_ft(resnet20(), probe_epochs=3, body_lr_scale=0.1)
    assert (head["name"], head.get("from_epoch", 0), head.get("lr_scale", 1)) == ("head", 0, 1)
    assert (body["name"], body["from_epoch"], body["lr_scale"]) == ("body", 3, 0.1)


def test_scratch_refuses_weights_and_a_run_from_scratch_leaves_them_out(lab, tmp_path, real_data):
    path = real_data / "weights" / "resnet20-12fca82f.th"
    with pytest.raises(ValueError, match="weights=null"):
        scratch(ResNet(3, [3, 32, 32], 10, weights=str(path)))
    common = ["model=resnet20", "data=synthetic", "data.num_examples=64", "steps=1", "optimizer=sgd", "optimizer.lr=0"]
    final = {}
    for name, more in {
        "scratch": [f"model.weights={path}", "finetune_strategy=scratch"],
        "random": ["finetune_strategy=full"],
        "full": [f"model.weights={path}"],
    }.items():
        ended = lab("train", *common, *more, f"hydra.run.dir={name}")
        assert ended.code == 0, ended.err
        saved = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)
        final[name] = saved["run"]["model"]["conv1.weight"]
    published = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]["module.conv1.weight"]
    assert torch.equal(final["full"], published)
    assert torch.equal(final["scratch"], final["random"])
    assert not torch.equal(final["scratch"], published)


# --- what happens in training ---


def run_of(strategy: Callable, steps: int = 24, model: nn.Module | None = None, optimizer=None, **parts) -> Run:
    """A small ResNet on digits, four steps an epoch."""
    torch.manual_seed(0)
    model = model or ResNet(1, [1, 8, 8], 10)
    groups = strategy(model)
    made = (optimizer or partial(torch.optim.SGD, lr=0.05, momentum=0.9))(groups)
    for group in made.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)
    regularize = Chain([getattr(groups, "say", None)])
    pace = cadence(steps, steps_per_epoch=4)
    parts = {"hardware": Hardware("cpu"), "regularize": regularize, **parts}
    return Run(model, Classification(10), digits(batch_size=32, seed=0), made, constant(made), pace, 0, **parts)


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


STRATEGIES = {
    "scratch": scratch,
    "full": full,
    "linear_probe": linear_probe,
    "linear_probe, statistics moving": partial(linear_probe, freeze_statistics=False),
    "last_blocks": partial(last_blocks, num_blocks=1),
    "bitfit": bitfit,
    "norm_only": norm_only,
    "only": partial(only, match=["layer2.*", "linear.*"]),
    "discriminative": discriminative,
    "layer_decay": layer_decay,
    "gradual": gradual,
    "lp_ft": partial(lp_ft, probe_epochs=1.5),
    "l2_sp": partial(l2_sp, alpha=0.1, beta=0.01),
    "surgical": surgical,
    "wise_ft": wise_ft,
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_run_killed_in_any_phase_resumes_to_the_same_bits(strategy):
    unbroken, broken = run_of(strategy), run_of(strategy)
    list(train(unbroken))
    steps = train(broken)
    kept = {}
    for step in steps:  # at the ends and in the middles of phases
        if step.n in (1, 4, 6, 10, 20):
            kept[step.n] = deepcopy(take_snapshot(broken))
    for n, state in kept.items():
        resumed = run_of(strategy)
        restore_snapshot(resumed, state)
        list(train(resumed, after=n))
        assert not moved(state_of(unbroken.model), state_of(resumed.model))
        scored = [state_of(run.regularize.scored(run.model)) for run in (unbroken, resumed)]
        assert not moved(*scored)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_every_step_moves_just_what_trains_then(strategy):
    run = run_of(strategy)
    names = {id(p): name for name, p in run.model.named_parameters()}
    begins = {
        names[id(p)]: group.get("from_epoch", 0) * 4 for group in run.optimizer.param_groups for p in group["params"]
    }
    before = state_of(run.model)
    for step in train(run):
        after = state_of(run.model)
        training = {name for name, start in begins.items() if step.n > start}
        assert moved(before, after) & set(names.values()) == training
        before = after


def test_a_frozen_block_keeps_its_statistics_until_it_thaws():
    run = run_of(gradual)  # linear, layer3.0, layer2.0, layer1.0, bn1, conv1
    seen = {}
    before = state_of(run.model)
    for step in train(run):
        after = state_of(run.model)
        for name in moved(before, after):
            if "running_mean" in name:
                seen.setdefault(name.removesuffix(".running_mean"), step.n)
        before = after
    assert seen == {f"layer{stage}.0.bn{n}": first for stage, first in ((3, 5), (2, 9), (1, 13)) for n in (1, 2)} | {
        "bn1": 17
    }


def test_phases_begin_where_their_epoch_does_whatever_floating_point_says():
    from lab.train.phases import first_step_of

    run = run_of(full)
    pace = replace(run.cadence, steps_per_epoch=10)
    firsts = [first_step_of({"from_epoch": epoch}, replace(run, cadence=pace)) for epoch in (0, 3 * 0.1, 0.25, 0.7, 2)]
    assert firsts == [1, 4, 4, 8, 21]


def test_a_frozen_normalisation_keeps_its_statistics():
    model = resnet20()
    last_blocks(model, num_blocks=1)
    before = state_of(model)
    set_training_mode(model)
    model(torch.rand(8, 3, 32, 32))
    changed = {name.rsplit(".", 1)[0] for name in moved(before, state_of(model))}
    assert changed == {"layer3.2.bn1", "layer3.2.bn2"}


@pytest.mark.parametrize("freeze", [True, False])
def test_a_linear_probe_freezes_statistics_or_lets_them_follow_the_data(freeze):
    run = run_of(partial(linear_probe, freeze_statistics=freeze), steps=2)
    before = state_of(run.model)
    list(train(run))
    changed = moved(before, state_of(run.model))
    statistics = {name for name in before if "running" in name or "num_batches" in name}
    assert changed & statistics == (set() if freeze else statistics)
    assert changed - statistics == {"linear.weight", "linear.bias"}


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
        "weight_decay_on": "all",
    }

    def make() -> Run:
        torch.manual_seed(0)
        model = ResNet(1, [1, 8, 8], 10)
        groups = strategy(model)
        pace = cadence(10, steps_per_epoch=4)
        parts = build_optimizer(config, groups, pace)
        return Run(model, Classification(10), digits(batch_size=32, seed=0), *parts, pace, hardware=Hardware("cpu"))

    def expected(run: Run, taken: int) -> list[float]:
        by_name = scales(strategy(ResNet(1, [1, 8, 8], 10)))
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
    run = run_of(discriminative, optimizer=partial(torch.optim.SGD, lr=0.05), steps=1)
    reference = deepcopy(run.model)
    images, labels = run.data.prepare(next(run.data.batches(0)))
    F.cross_entropy(reference.train()(images), labels).backward()
    list(train(run))
    for block, depth in (("linear", 0), ("layer3.0", 1), ("conv1", 4)):
        after, start = run.model.get_submodule(block), reference.get_submodule(block)
        for p, q in zip(after.parameters(), start.parameters(), strict=True):
            torch.testing.assert_close(p, q - 0.05 / 2.6**depth * q.grad, rtol=1e-5, atol=1e-7)


# --- the promise ---


class Beside(nn.Module):
    """A linear classifier beside a layer that its forward pass leaves out."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(4, 4)
        self.body = nn.Linear(64, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, images):
        return self.head(self.body(images.flatten(1)))


def test_what_is_to_train_but_gets_no_gradient_is_an_error_after_the_first_step():
    run = run_of(partial(only, match=["unused.*", "head.*"]), model=Beside())
    with pytest.raises(ValueError, match=r"is to train unused\.weight, unused\.bias, but no gradient reached it"):
        next(train(run))
    for everything in (full, gradual, partial(lp_ft, probe_epochs=1)):  # these name no module
        assert len(list(train(run_of(everything, model=Beside())))) == 24
    run = run_of(partial(linear_probe, head="unused"), model=Beside())
    with pytest.raises((ValueError, RuntimeError), match="grad"):
        next(train(run))


@pytest.mark.parametrize("first", [1, 7])
def test_a_frozen_parameter_that_moves_is_an_error_after_the_first_step_of_a_phase(first):
    class Nasty(torch.optim.SGD):
        taken = 0

        def step(self, closure=None):
            self.taken += 1
            if self.taken == first:
                with torch.no_grad():
                    run.model.conv1.weight[0, 0, 0, 0] += 1e-7
            return super().step(closure)

    # the head from step 1, the body from step 7, but not the first convolution
    def strategy(model: nn.Module) -> list[dict]:
        groups = lp_ft(model, probe_epochs=1.5)
        model.conv1.weight.requires_grad_(False)
        groups[1]["params"] = [p for p in groups[1]["params"] if p is not model.conv1.weight]
        return groups

    run = run_of(strategy, optimizer=partial(Nasty, lr=0.01))
    steps = train(run)
    for _ in range(first - 1):
        next(steps)
    with pytest.raises(ValueError, match=r"is to leave conv1\.weight as it is"):
        next(steps)


# --- what some have to say ---


def test_the_l2_sp_penalty_is_the_gradient_of_its_formula():
    torch.manual_seed(0)
    model = SimpleCNN([1, 8, 8], 10)
    start = model.conv.weight.detach().clone(), model.conv.bias.detach().clone()
    groups = l2_sp(model, alpha=0.3, beta=0.07)
    assert all(group["weight_decay"] == 0 for group in groups)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    body = sum((p - p0).square().sum() for p, p0 in zip(model.conv.parameters(), start, strict=True))
    head = sum(p.square().sum() for p in model.head.parameters())
    loss = F.cross_entropy(model(images), labels)
    expected = torch.autograd.grad(loss + 0.3 / 2 * body + 0.07 / 2 * head, list(model.parameters()))
    F.cross_entropy(model(images), labels).backward()
    groups.say.penalise(model)
    for p, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad)
    model.conv.weight.grad = None
    groups.say.penalise(model)
    assert model.conv.weight.grad is None


def test_l2_sp_draws_to_zero_what_the_weights_had_nothing_for():
    model = SimpleCNN([1, 8, 8], 10)
    vars(model)["new_parameters"] = frozenset({"head.weight", "conv.bias"})
    found = groups_by_name(model, l2_sp(model, alpha=0.1, beta=0.01))
    assert found == {"new": {"head.weight", "conv.bias"}, "pretrained": {"conv.weight", "head.bias"}}
    vars(model)["new_parameters"] = frozenset()
    assert groups_by_name(model, l2_sp(model, alpha=0.1, beta=0.01)).keys() == {"pretrained"}


def test_l2_sp_holds_a_run_near_its_start():
    def distance(alpha: float) -> float:
        run = run_of(partial(l2_sp, alpha=alpha, beta=0.0))
        start = state_of(run.model)
        list(train(run))
        return sum((p - start[name]).norm().item() for name, p in run.model.named_parameters())

    far, near = distance(0.0), distance(3.0)
    assert near < far / 2


def test_wise_ft_scores_the_mean_of_start_and_finetuned_weights(tmp_path):
    torch.manual_seed(0)
    model = ResNet(1, [1, 8, 8], 10)
    vars(model)["new_parameters"] = frozenset({"linear.weight", "linear.bias"})
    start = state_of(model)
    run = run_of(partial(wise_ft, mix=0.25), model=model)
    list(train(run))
    tuned, scored = state_of(model), state_of(run.regularize.scored(model))
    for name, value in scored.items():
        whole = name.startswith("linear") or not value.is_floating_point()
        torch.testing.assert_close(value, tuned[name] if whole else 0.75 * start[name] + 0.25 * tuned[name])
    assert "layer1.0.bn1.running_mean" in scored
    assert not moved(tuned, state_of(model)), "the weights that are trained stay as they are"
    with torch.no_grad():
        model.conv1.weight.zero_()
    again = run.regularize.scored(model)
    torch.testing.assert_close(again.conv1.weight, 0.75 * start["conv1.weight"])
    assert not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize(("mix", "like"), [(0.0, "start"), (1.0, "tuned")])
def test_wise_ft_at_its_ends_is_the_start_or_the_finetuned_model(mix, like):
    run = run_of(partial(wise_ft, mix=mix))
    ends = {"start": state_of(run.model)}
    list(train(run))
    ends["tuned"] = state_of(run.model)
    scored = state_of(run.regularize.scored(run.model))
    assert not {name for name in moved(ends[like], scored) if "num_batches" not in name}


def test_wise_ft_sees_the_steps_of_a_fused_optimizer_which_torch_does_not_count_as_changes():
    model = SimpleCNN([1, 8, 8], 10)
    run = run_of(wise_ft, model=model, optimizer=partial(torch.optim.Adam, lr=0.01, fused=True))
    start = model.head.weight.detach().clone()
    for step in train(run):
        scored = run.regularize.scored(model).head.weight
        torch.testing.assert_close(scored, (start + model.head.weight.detach()) / 2, msg=f"step {step.n}")
    assert not torch.equal(start, model.head.weight)


def test_wise_ft_mixes_an_average_of_the_weights_as_well(tmp_path):
    run = run_of(wise_ft)
    start, mean = state_of(run.model), EMA(run.model, decay=0.5)
    run = replace(run, regularize=Chain([mean, *run.regularize.parts]))
    scores = execute(run, Record(tmp_path))
    averaged, scored = mean.average.conv1.weight, run.regularize.scored(run.model).conv1.weight
    torch.testing.assert_close(scored, (start["conv1.weight"] + averaged) / 2)
    assert {"val/accuracy", "test/accuracy"} <= scores.keys()


def test_wise_ft_takes_the_running_statistics_of_the_mean_anew():
    run = run_of(partial(wise_ft, mix=0.5), model=ResNet(1, [1, 8, 8], 10))
    list(train(run))
    model = scored_model(run)
    found = model.bn1.running_mean.clone()
    inputs = torch.cat([model.conv1(images) for images, _ in map(run.data.prepare, first_epoch(run))])
    torch.testing.assert_close(found, inputs.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert not run.regularize.parts[-1].stale
    assert torch.equal(scored_model(run).bn1.running_mean, found)


def test_a_strategy_holds_its_start_on_the_device_that_the_model_moves_to():
    model = SimpleCNN([1, 8, 8], 10)
    penalty = L2SP(list(model.conv.parameters()), list(model.head.parameters()), alpha=0.1, beta=0.1)
    mean = WiseFT(model, mix=0.5)
    with torch.device("meta"):
        there = SimpleCNN([1, 8, 8], 10)
    penalty.pretrained, penalty.new = list(there.conv.parameters()), list(there.head.parameters())
    there(torch.rand(2, 1, 8, 8, device="meta")).sum().backward()
    penalty.penalise(there)
    assert {w0.device.type for w0 in penalty.start} == {"meta"}
    assert mean.scored(there).conv.weight.device.type == "meta"


@pytest.mark.slow
def test_a_sweep_over_all_strategies_goes_through(lab, tmp_path):
    ended = lab("train", "-m", "finetune_strategy=glob(*)", "steps=4", "log_every=1", "hydra.launcher.workers=1")
    assert ended.code == 0, ended.err
    runs = list(tmp_path.glob("outputs/**/results.json"))
    found = {json.loads((path.parent / "manifest.json").read_text())["choices"]["finetune_strategy"] for path in runs}
    assert {"gradual", "l2_sp", "lp_ft", "scratch", "wise_ft", "only"} <= found
    assert all("test/accuracy" in json.loads(path.read_text()) for path in runs)


def test_a_group_whose_time_does_not_come_is_said(lab):
    said = lab("train", "model=mlp", "epochs=1", "finetune_strategy=gradual", "data.batch_size=512").err
    assert re.search(r"head +1,290 +13\.42%  lr 0\.001\n", said)
    assert re.search(r"body\.1 +8,320 +86\.58%  lr 0\.001  from epoch 1, but the run ends with epoch 1\n", said)
