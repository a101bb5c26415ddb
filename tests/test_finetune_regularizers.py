"""The strategies that come with a regularizer: L2-SP and WiSE-FT."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from lab.finetune.l2_sp import L2SP, l2_sp
from lab.finetune.wise_ft import WiseFT, wise_ft
from lab.models.origin import Origin, set_origin
from lab.models.resnet_cifar import ResNet
from lab.models.simple_cnn import SimpleCNN
from lab.record.record import Record
from lab.regularize.chain import Chain
from lab.regularize.ema import EMA
from lab.train.batches import first_epoch
from lab.train.loop import execute, train
from lab.train.scoring import scored_model
from tests.finetune_runs import changed_names, copy_state, groups_by_name, make_run


def test_the_l2_sp_penalty_is_the_gradient_of_its_formula():
    torch.manual_seed(0)
    model = SimpleCNN([1, 8, 8], 10)
    start = model.conv.weight.detach().clone(), model.conv.bias.detach().clone()
    groups = l2_sp(model, alpha=0.3, beta=0.07)
    assert all(group["weight_decay"] == 0 for group in groups.groups)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    body = sum((p - p0).square().sum() for p, p0 in zip(model.conv.parameters(), start, strict=True))
    head = sum(p.square().sum() for p in model.head.parameters())
    loss = F.cross_entropy(model(images), labels)
    expected = torch.autograd.grad(loss + 0.3 / 2 * body + 0.07 / 2 * head, list(model.parameters()))
    F.cross_entropy(model(images), labels).backward()
    groups.regularizer.add_to_gradients(model)
    for p, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad)
    model.conv.weight.grad = None
    groups.regularizer.add_to_gradients(model)
    assert model.conv.weight.grad is None


def test_l2_sp_draws_to_zero_what_the_weights_had_nothing_for():
    model = SimpleCNN([1, 8, 8], 10)
    set_origin(model, Origin("some.pt", "", matched=2, new=("head.weight", "conv.bias"), left=()))
    by_name = groups_by_name(model, l2_sp(model, alpha=0.1, beta=0.01))
    assert by_name == {"new": {"head.weight", "conv.bias"}, "pretrained": {"conv.weight", "head.bias"}}
    set_origin(model, Origin("all.pt", "", matched=4, new=(), left=()))
    assert groups_by_name(model, l2_sp(model, alpha=0.1, beta=0.01)).keys() == {"pretrained"}


def test_l2_sp_holds_a_run_near_its_start():
    def distance(alpha: float) -> float:
        run = make_run(partial(l2_sp, alpha=alpha, beta=0.0))
        start = copy_state(run.model)
        list(train(run))
        return sum((p - start[name]).norm().item() for name, p in run.model.named_parameters())

    far, near = distance(0.0), distance(3.0)
    assert near < far / 2


def test_wise_ft_scores_the_mean_of_start_and_finetuned_weights(tmp_path):
    torch.manual_seed(0)
    model = ResNet(1, [1, 8, 8], 10)
    set_origin(model, Origin("body.pt", "", matched=40, new=("linear.weight", "linear.bias"), left=()))
    start = copy_state(model)
    run = make_run(partial(wise_ft, mix=0.25), model=model)
    list(train(run))
    tuned, scored = copy_state(model), copy_state(run.regularize.model_to_score(model))
    for name, value in scored.items():
        whole = name.startswith("linear") or not value.is_floating_point()
        torch.testing.assert_close(value, tuned[name] if whole else 0.75 * start[name] + 0.25 * tuned[name])
    assert "layer1.0.bn1.running_mean" in scored
    assert not changed_names(tuned, copy_state(model)), "the weights that are trained stay as they are"
    with torch.no_grad():
        model.conv1.weight.zero_()
    again = run.regularize.model_to_score(model)
    torch.testing.assert_close(again.conv1.weight, 0.75 * start["conv1.weight"])
    assert not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize(("mix", "like"), [(0.0, "start"), (1.0, "tuned")])
def test_wise_ft_at_its_ends_is_the_start_or_the_finetuned_model(mix, like):
    run = make_run(partial(wise_ft, mix=mix))
    ends = {"start": copy_state(run.model)}
    list(train(run))
    ends["tuned"] = copy_state(run.model)
    scored = copy_state(run.regularize.model_to_score(run.model))
    assert not {name for name in changed_names(ends[like], scored) if "num_batches" not in name}


def test_wise_ft_sees_the_steps_of_a_fused_optimizer_which_torch_does_not_count_as_changes():
    model = SimpleCNN([1, 8, 8], 10)
    run = make_run(wise_ft, model=model, optimizer=partial(torch.optim.Adam, lr=0.01, fused=True))
    start = model.head.weight.detach().clone()
    for step in train(run):
        scored = run.regularize.model_to_score(model).head.weight
        torch.testing.assert_close(scored, (start + model.head.weight.detach()) / 2, msg=f"step {step.n}")
    assert not torch.equal(start, model.head.weight)


def test_wise_ft_mixes_an_average_of_the_weights_as_well(tmp_path):
    run = make_run(wise_ft)
    start, mean = copy_state(run.model), EMA(run.model, decay=0.5)
    run = replace(run, regularize=Chain([mean, *run.regularize.parts]))
    scores = execute(run, Record(tmp_path))
    averaged, scored = mean.average.conv1.weight, run.regularize.model_to_score(run.model).conv1.weight
    torch.testing.assert_close(scored, (start["conv1.weight"] + averaged) / 2)
    assert {"val/accuracy", "test/accuracy"} <= scores.keys()


def test_wise_ft_takes_the_running_statistics_of_the_mean_anew():
    run = make_run(partial(wise_ft, mix=0.5), model=ResNet(1, [1, 8, 8], 10))
    list(train(run))
    model = scored_model(run)
    found = model.bn1.running_mean.clone()
    inputs = torch.cat([model.conv1(images) for images, _ in map(run.data.prepare, first_epoch(run))])
    torch.testing.assert_close(found, inputs.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert not run.regularize.parts[-1].statistics_stale
    assert torch.equal(scored_model(run).bn1.running_mean, found)


def test_a_strategy_holds_its_start_on_the_device_that_the_model_moves_to():
    model = SimpleCNN([1, 8, 8], 10)
    penalty = L2SP(list(model.conv.parameters()), list(model.head.parameters()), alpha=0.1, beta=0.1)
    mean = WiseFT(model, mix=0.5)
    with torch.device("meta"):
        there = SimpleCNN([1, 8, 8], 10)
    penalty.pretrained, penalty.new = list(there.conv.parameters()), list(there.head.parameters())
    there(torch.rand(2, 1, 8, 8, device="meta")).sum().backward()
    penalty.add_to_gradients(there)
    assert {w0.device.type for w0 in penalty.start} == {"meta"}
    assert mean.model_to_score(there).conv.weight.device.type == "meta"
