"""What a strategy moves in training: phases, running statistics, and the check after the first step of a phase."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from lab.finetune.bitfit import bitfit
from lab.finetune.discriminative import discriminative
from lab.finetune.full import full
from lab.finetune.gradual import gradual
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
from lab.train.loop import train
from lab.train.scoring import set_training_mode
from lab.train.state import restore_snapshot, take_snapshot
from tests.finetune_runs import changed_names, copy_state, make_run, resnet20

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
    unbroken, broken = make_run(strategy), make_run(strategy)
    list(train(unbroken))
    steps = train(broken)
    kept = {}
    for step in steps:  # at the ends and in the middles of phases
        if step.n in (4, 6, 10, 20):
            kept[step.n] = deepcopy(take_snapshot(broken))
    for n, state in kept.items():
        resumed = make_run(strategy)
        restore_snapshot(resumed, state)
        list(train(resumed, after=n))
        assert not changed_names(copy_state(unbroken.model), copy_state(resumed.model))
        scored = [copy_state(run.regularize.model_to_score(run.model)) for run in (unbroken, resumed)]
        assert not changed_names(*scored)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_every_step_moves_just_what_trains_then(strategy):
    run = make_run(strategy)
    names = {id(p): name for name, p in run.model.named_parameters()}
    begins = {
        names[id(p)]: group.get("from_epoch", 0) * 4 for group in run.optimizer.param_groups for p in group["params"]
    }
    before = copy_state(run.model)
    for step in train(run):
        after = copy_state(run.model)
        training = {name for name, start in begins.items() if step.n > start}
        assert changed_names(before, after) & set(names.values()) == training
        before = after


def test_a_frozen_block_keeps_its_statistics_until_it_thaws():
    run = make_run(gradual)  # linear, layer3.0, layer2.0, layer1.0, bn1, conv1
    seen = {}
    before = copy_state(run.model)
    for step in train(run):
        after = copy_state(run.model)
        for name in changed_names(before, after):
            if "running_mean" in name:
                seen.setdefault(name.removesuffix(".running_mean"), step.n)
        before = after
    assert seen == {f"layer{stage}.0.bn{n}": first for stage, first in ((3, 5), (2, 9), (1, 13)) for n in (1, 2)} | {
        "bn1": 17
    }


def test_phases_begin_where_their_epoch_does_whatever_floating_point_says():
    from lab.train.phases import first_step_of

    run = make_run(full)
    pace = replace(run.cadence, steps_per_epoch=10)
    firsts = [first_step_of({"from_epoch": epoch}, replace(run, cadence=pace)) for epoch in (0, 3 * 0.1, 0.25, 0.7, 2)]
    assert firsts == [1, 4, 4, 8, 21]


def test_a_frozen_normalisation_keeps_its_statistics():
    model = resnet20()
    last_blocks(model, num_blocks=1)
    before = copy_state(model)
    set_training_mode(model)
    model(torch.rand(8, 3, 32, 32))
    changed = {name.rsplit(".", 1)[0] for name in changed_names(before, copy_state(model))}
    assert changed == {"layer3.2.bn1", "layer3.2.bn2"}


@pytest.mark.parametrize("freeze", [True, False])
def test_a_linear_probe_freezes_statistics_or_lets_them_follow_the_data(freeze):
    run = make_run(partial(linear_probe, freeze_statistics=freeze), steps=2)
    before = copy_state(run.model)
    list(train(run))
    changed = changed_names(before, copy_state(run.model))
    statistics = {name for name in before if "running" in name or "num_batches" in name}
    assert changed & statistics == (set() if freeze else statistics)
    assert changed - statistics == {"linear.weight", "linear.bias"}


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
    run = make_run(partial(only, match=["unused.*", "head.*"]), model=Beside())
    with pytest.raises(ValueError, match=r"is to train unused\.weight, unused\.bias, but no gradient reached it"):
        next(train(run))
    for everything in (full, gradual, partial(lp_ft, probe_epochs=1)):  # these name no module
        assert len(list(train(make_run(everything, model=Beside())))) == 24
    run = make_run(partial(linear_probe, head="unused"), model=Beside())
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

    run = make_run(strategy, optimizer=partial(Nasty, lr=0.01))
    steps = train(run)
    for _ in range(first - 1):
        next(steps)
    with pytest.raises(ValueError, match=r"is to leave conv1\.weight as it is"):
        next(steps)
