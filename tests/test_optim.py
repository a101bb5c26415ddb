"""Schedules and optimizers, against torch's own."""

import json
from copy import deepcopy

import pytest
import torch
from torch import nn

from lab.optim import schedules
from lab.optim.clip import make_clip
from lab.optim.decay import no_decay_groups
from lab.optim.muon import Muon
from tests.conftest import only_run

STEPS = 50


def rates(make) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = make(optimizer)
    lrs = []
    for _ in range(STEPS):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return lrs


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda o: schedules.cosine(o, STEPS, final=0.1),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.01),
        ),
        (
            lambda o: schedules.step(o, STEPS, milestones=[0.5, 0.75]),
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [25, 38], gamma=0.1),
        ),
        (
            lambda o: schedules.one_cycle(o, STEPS),
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS, cycle_momentum=False),
        ),
        (lambda o: schedules.constant(o), lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
    ],
)
def test_a_schedule_is_torchs(ours, theirs):
    assert rates(ours) == pytest.approx(rates(theirs), rel=1e-6, abs=1e-9)


def test_warmup_is_linear_and_meets_the_cosine_at_its_top():
    lrs = rates(lambda o: schedules.cosine(o, STEPS, warmup_share=0.2))
    assert lrs[:10] == pytest.approx([0.01 * n for n in range(1, 11)])
    assert lrs[10] == pytest.approx(0.1)
    assert lrs[-1] < 0.001


def test_wsd_is_flat_between_its_warmup_and_its_linear_decay():
    lrs = rates(lambda o: schedules.wsd(o, STEPS, warmup_share=0.1, decay_share=0.2))
    assert lrs[5:40] == pytest.approx([0.1] * 35)
    assert lrs[40:] == pytest.approx([0.01 * n for n in range(10, 0, -1)])
    with pytest.raises(ValueError, match="more than the whole run"):
        rates(lambda o: schedules.wsd(o, STEPS, warmup_share=0.6, decay_share=0.6))


def test_a_schedule_resumes_where_it_was():
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.2)])
    schedule = schedules.cosine(optimizer, STEPS)
    for _ in range(7):
        schedule.step()
    expected = [group["lr"] for group in optimizer.param_groups]
    assert expected[1] == pytest.approx(2 * expected[0])
    again = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.2)])
    schedules.cosine(again, STEPS).load_state_dict(schedule.state_dict())
    assert [group["lr"] for group in again.param_groups] == expected


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 4), nn.Linear(4, 2, bias=False))


def descend(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 5) -> None:
    torch.manual_seed(1)
    for _ in range(steps):
        model(torch.rand(8, 1, 4, 4)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_muon_is_torchs_muon_on_matrices_and_adamw_on_the_rest():
    ours, theirs = network(), network()
    descend(ours, Muon(ours.parameters(), lr=0.05, adamw_lr=0.01))
    matrices = [p for p in theirs.parameters() if p.dim() == 2]
    others = [p for p in theirs.parameters() if p.dim() != 2]
    descend(
        theirs,
        torch.optim.Muon(matrices, lr=0.05, momentum=0.95, weight_decay=0.1),
        torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, fused=True),
    )
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_muon_resumes_in_the_same_bits_and_follows_a_schedule():
    unbroken, first, second = network(), network(), network()
    optimizer = Muon(unbroken.parameters())
    schedule = schedules.cosine(optimizer, 10)
    schedule.step()
    assert {group["lr"] for part in optimizer.optimizers for group in part.param_groups} == {
        group["lr"] for group in optimizer.param_groups
    }
    before = Muon(first.parameters())
    schedules.cosine(before, 10).step()
    descend(unbroken, optimizer)
    descend(first, before)
    second.load_state_dict(first.state_dict())
    after = Muon(second.parameters())
    schedule_after = schedules.cosine(after, 10)
    after.load_state_dict(before.state_dict())
    schedule_after.load_state_dict({"taken": 1})
    descend(unbroken, optimizer)
    descend(second, after)
    assert all(map(torch.equal, unbroken.parameters(), second.parameters()))


def test_clipping_bounds_the_norm_and_returns_what_it_was():
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3.0)
    assert make_clip(1.5)([parameter]) == pytest.approx(6.0)
    assert parameter.grad.norm() == pytest.approx(1.5, rel=1e-4)
    assert make_clip(None)([parameter]) is None
    with pytest.raises(ValueError, match="max_norm"):
        make_clip(0.0)


def test_what_is_spared_from_decay_has_less_than_two_dimensions_and_keeps_all_other_options():
    model = nn.ModuleDict({"body": nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), "head": nn.Linear(8, 2)})
    (filters, *others), (weight, bias) = model["body"].parameters(), model["head"].parameters()
    options = {"lr_scale": 0.1, "from_epoch": 2, "weight_decay": 0.3}
    groups = [
        {"params": [filters, *others], "name": "body", **options},
        {"params": [weight, bias], "name": "head"},
        {"params": others[:1], "name": "a norm"},
    ]
    assert no_decay_groups(groups) == [
        {"params": [filters], "name": "body", **options},
        {"params": others, "name": "body (no decay)", **options, "weight_decay": 0.0},
        {"params": [weight], "name": "head"},
        {"params": [bias], "name": "head (no decay)", "weight_decay": 0.0},
        {"params": others[:1], "name": "a norm (no decay)", "weight_decay": 0.0},
    ]
    assert groups[0]["params"] == [filters, *others], "the strategy's own groups were changed"


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: torch.optim.SGD(groups, lr=0.1, weight_decay=0.5),
        lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5),
        lambda groups: Muon(groups, lr=0.1, weight_decay=0.5),
    ],
)
def test_without_gradients_a_step_shrinks_matrices_and_no_bias(make):
    model = network()
    before = deepcopy(model.state_dict())
    optimizer = make(no_decay_groups([{"params": list(model.parameters())}]))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is (parameter.dim() < 2), name


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_decay_can_be_for_matrices_alone_with_any_optimizer_and_phases(lab, tmp_path, optimizer):
    chosen = ["model=mlp", f"optimizer={optimizer}", "optimizer.weight_decay=0.1", "finetune_strategy=lp_ft"]
    ended = lab("train", *chosen, "finetune_strategy.probe_epochs=0.5", "weight_decay_on=matrices", "steps=15")
    assert ended.code == 0, ended.err
    assert "body (no decay)" in ended.err
    assert json.loads((only_run(tmp_path) / "results.json").read_text())["test/accuracy"] > 0.1


def test_an_optimizer_without_decay_has_none_to_spare(lab):
    chosen = ["model=mlp", "optimizer._target_=torch.optim.Rprop", "~optimizer.momentum", "~optimizer.nesterov"]
    chosen += ["optimizer=sgd", "~optimizer.weight_decay", "~optimizer.fused", "steps=1"]
    ended = lab("train", *chosen, "weight_decay_on=matrices")
    assert ended.code == 2
    assert "Rprop has no weight decay to spare any of" in ended.err
    ended = lab("train", *chosen, "weight_decay_on=biases")
    assert "weight_decay_on=biases is not all or matrices" in ended.err
