"""Each strategy trains exactly what its paper names, and refuses what it cannot train."""

import json
import re
from functools import partial

import pytest
import torch
from torch import nn

from lab.finetune.bitfit import bitfit
from lab.finetune.discriminative import discriminative
from lab.finetune.full import full
from lab.finetune.gradual import gradual
from lab.finetune.groups import Groups
from lab.finetune.l2_sp import l2_sp
from lab.finetune.last_blocks import last_blocks
from lab.finetune.layer_decay import layer_decay
from lab.finetune.linear_probe import linear_probe
from lab.finetune.lp_ft import lp_ft
from lab.finetune.norm_only import norm_only
from lab.finetune.only import only
from lab.finetune.scratch import scratch
from lab.finetune.surgical import surgical
from lab.finetune.wise_ft import wise_ft
from lab.models.blocks import head_name
from lab.models.resnet_cifar import ResNet
from tests.finetune_runs import (
    ALL,
    BN18,
    BN20,
    HEAD,
    LSTM,
    LSTM_BIASES,
    Reader,
    groups_by_name,
    resnet18,
    resnet20,
    timm_vit,
    trained_names,
    vit_b_16,
    vit_block,
)

# model, strategy, and for each of its groups a regular expression of its parameters' names and their number
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


@pytest.mark.parametrize(("make", "strategy", "expected"), TRAINED)
def test_a_strategy_trains_exactly_what_its_paper_names(make, strategy, expected):
    model = make()
    groups = Groups.of(strategy(model)).groups
    by_name = groups_by_name(model, groups)
    assert by_name.keys() == expected.keys()
    for group in groups:
        pattern, count = expected[group["name"]]
        assert by_name[group["name"]] == {name for name, _ in model.named_parameters() if re.fullmatch(pattern, name)}
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
    groups = Groups.of(strategy(model)).groups
    assert trained_names(model, groups) == dict(model.named_parameters()).keys()
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_sweep_over_all_strategies_goes_through(lab, tmp_path):
    ended = lab(
        "train",
        "-m",
        "finetune_strategy=glob(*,exclude=[qlora,backbone_layers])",
        "steps=4",
        "log_every=1",
        "hydra.launcher.workers=1",
    )
    assert ended.code == 0, ended.err
    runs = list(tmp_path.glob("outputs/**/results.json"))
    found = {json.loads((path.parent / "manifest.json").read_text())["choices"]["finetune_strategy"] for path in runs}
    assert {"gradual", "l2_sp", "lp_ft", "scratch", "wise_ft", "only"} <= found
    assert all("test/accuracy" in json.loads(path.read_text()) for path in runs)


def test_a_group_whose_time_does_not_come_is_said(lab):
    said = lab("train", "model=mlp", "epochs=1", "finetune_strategy=gradual", "data.batch_size=512").err
    assert re.search(r"head +1,290 +13\.42%  lr 0\.001\n", said)
    assert re.search(r"body\.1 +8,320 +86\.58%  lr 0\.001  from epoch 1, but the run ends with epoch 1\n", said)
