"""What has a say beside the loss."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

from lab.data.digits import digits
from lab.hardware import Hardware
from lab.metrics.scores import Evaluation, Monitor
from lab.optim.schedules import constant
from lab.regularize.chain import Chain
from lab.regularize.early_stop import EarlyStop
from lab.regularize.ema import EMA
from lab.regularize.sam import SAM
from lab.regularize.swa import SWA
from lab.run import Run, cadence
from lab.tasks.classification import Classification
from lab.train.loop import train
from lab.train.scoring import evaluate, scored_model
from lab.train.state import restore_snapshot, take_snapshot
from tests.conftest import only_run


def network(dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 10)
    return nn.Sequential(*layers)


def make(steps: int = 60, hardware: Hardware | None = None, dropout: float = 0.2) -> Run:
    model, data = network(dropout), digits(batch_size=64, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pace = cadence(steps, data.steps_per_epoch)
    return Run(
        model, Classification(10), data, optimizer, constant(optimizer), pace, hardware=hardware or Hardware("cpu")
    )


REGULARIZERS = {
    "ema": lambda run: [EMA(run.model, decay=0.9)],
    "early_stop": lambda run: [EarlyStop(Monitor(), patience=100)],
    "swa": lambda run: [SWA(run.model, run.cadence.steps, run.cadence.steps_per_epoch, start=0.2, every=7)],
    "sam": lambda run: [SAM(run.model, rho=0.05)],
    "asam": lambda run: [SAM(run.model, rho=0.5, adaptive=True)],
    "chain": lambda run: [Chain([SAM(run.model, rho=0.05), EMA(run.model, decay=0.9)]), EarlyStop(Monitor(), 100)],
}


@pytest.mark.parametrize("kept_at", [1, 12, 19, 20, 41])
@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_run_with_any_regularizer_resumes_in_the_same_bits(name, kept_at):
    def trained(run: Run, after: int = 0, until: int = 60) -> tuple[dict, dict[int, dict[str, float]]]:
        scores = {}
        for step in train(run, after):
            if step.n % 10 == 0:
                scores[step.n] = evaluate(run)
                run.regularize.on_scores(scores[step.n])
            if step.n == until:
                break
        return deepcopy(take_snapshot(run)), scores

    def regularized() -> Run:
        run = make()
        return replace(run, regularize=Chain(REGULARIZERS[name](run)))

    unbroken, resumed = regularized(), regularized()
    whole, scores = trained(unbroken)
    state, scores_before = trained(regularized(), until=kept_at)
    restore_snapshot(resumed, state)
    again, scores_after = trained(resumed, after=kept_at)
    assert scores == scores_before | scores_after
    assert same(whole["model"], again["model"])
    assert torch.equal(whole["generators"]["cpu"], again["generators"]["cpu"])
    assert str(whole["regularize"]) == str(again["regularize"])
    assert same(scored_model(unbroken).state_dict(), scored_model(resumed).state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(map(torch.equal, a.values(), b.values()))


def test_ema_is_the_average_of_its_definition():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = EMA(model, decay=0.9)
    reference = model[0].weight.detach().clone()
    for n in range(1, 40):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(2, 3))
            model[1].running_mean.add_(1)
        ema.step(model)
        d = min(0.9, (1 + n) / (10 + n))
        reference = d * reference + (1 - d) * model[0].weight.detach()
    averaged = ema.model_to_score(model)
    assert torch.allclose(averaged[0].weight, reference, atol=1e-5)
    assert torch.equal(averaged[1].running_mean, model[1].running_mean)
    assert not any(p.requires_grad for p in averaged.parameters())


def test_early_stop_waits_for_its_patience_and_starts_over_at_each_improvement():
    stop = EarlyStop(Monitor("val/accuracy", "max"), patience=2)
    said = []
    for accuracy in (0.5, 0.4, 0.6, 0.6, 0.59):
        stop.on_scores(Evaluation({"val/accuracy": accuracy}))
        said.append(stop.stopped)
    assert said == [False, False, False, False, True]
    again = EarlyStop(Monitor("val/accuracy", "max"), patience=2)
    again.load_state_dict(stop.state_dict())
    assert again.stopped


def test_early_stop_can_wait_for_a_smaller_loss():
    stop = EarlyStop(Monitor("val/cross_entropy", "min"), patience=1, min_delta=0.1)
    for loss, stopped in ((1.0, False), (0.8, False), (0.75, True)):
        stop.on_scores(Evaluation({"val/cross_entropy": loss}))
        assert stop.stopped is stopped


def test_swa_is_the_mean_of_the_weights_at_its_start_and_every_so_many_steps_after_it():
    run = make(steps=40)
    swa = SWA(run.model, steps=40, steps_per_epoch=20, start=0.5, every=6)
    run, kept = replace(run, regularize=Chain([swa])), []
    for step in train(run):
        if step.n < 20:
            assert swa.model_to_score(run.model) is run.model
        if step.n in (20, 26, 32, 38):
            kept.append(run.model[1].weight.detach().clone())
            assert torch.allclose(swa.model_to_score(run.model)[1].weight, torch.stack(kept).mean(0), atol=1e-6)
    assert swa.taken == 4
    once_an_epoch = SWA(run.model, steps=100, steps_per_epoch=20, start=0.75)
    assert (once_an_epoch.start, once_an_epoch.every) == (75, 20)
    with pytest.raises(ValueError, match="start 20 is not a share"):
        SWA(run.model, steps=40, steps_per_epoch=20, start=20)


class CountedEpochs:
    """A data set that counts how often its training set is begun, and draws as it is read."""

    def __init__(self, data):
        self.data, self.begun = data, 0

    def __getattr__(self, name):
        return getattr(self.data, name)

    def batches(self, after):
        self.begun += 1
        torch.rand(1)
        return self.data.batches(after)


def test_an_average_is_scored_with_statistics_of_its_own_taken_once_and_without_a_trace():
    run = make(steps=40)
    counted = CountedEpochs(run.data)
    swa = SWA(run.model, steps=40, steps_per_epoch=20, start=0.5, every=10)
    run = replace(run, regularize=Chain([swa]), data=counted)
    list(train(run))
    begun, before = counted.begun, torch.get_rng_state()
    live = deepcopy(run.model.state_dict())
    reference = deepcopy(swa.average)
    reference[4].p = 0.0  # update_bn leaves dropout on
    batches = [run.data.prepare(batch) for batch, _ in zip(run.data.data.batches(0), range(20), strict=False)]
    update_bn(batches, reference)
    assert not torch.allclose(swa.average[2].running_mean, reference[2].running_mean, atol=1e-3)
    averaged = scored_model(run)
    assert same(averaged.state_dict(), reference.state_dict())
    assert torch.equal(before, torch.get_rng_state())
    assert same(run.model.state_dict(), live)
    assert counted.begun == begun + 1
    evaluate(run)
    assert same(scored_model(run).state_dict(), reference.state_dict())
    assert counted.begun == begun + 1, "the statistics of the same average were taken again"
    assert averaged[2].momentum == 0.1
    assert not averaged.training


def test_an_average_keeps_the_statistics_of_what_the_strategy_froze():
    run = make(steps=40)
    run.model[2].requires_grad_(False)
    run.optimizer.param_groups[0]["params"] = [p for p in run.model.parameters() if p.requires_grad]
    run.model[2].running_mean.fill_(3)
    swa = SWA(run.model, steps=40, steps_per_epoch=20, start=0.5, every=10)
    run = replace(run, regularize=Chain([swa]))
    list(train(run))
    assert torch.equal(scored_model(run)[2].running_mean, torch.full((16,), 3.0))


def loss_and_gradients(model: nn.Module, batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def a_batch():
    draw = torch.Generator().manual_seed(1)
    return torch.randn(32, 1, 8, 8, generator=draw), torch.randint(10, (32,), generator=draw)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_leaves_the_gradients_of_the_worst_weights_nearby_and_the_weights_as_they_were(adaptive):
    model, by_hand, batch = network(dropout=0), network(dropout=0), a_batch()

    def once() -> torch.Tensor:
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    loss = SAM(model, rho=0.1, adaptive=adaptive).backward(once)
    expected, first = loss_and_gradients(by_hand, batch)
    after_one_pass = deepcopy(by_hand.state_dict())
    sizes = [p.detach().abs() if adaptive else torch.ones_like(p) for p in by_hand.parameters()]
    norm = sum((size * g).square().sum() for size, g in zip(sizes, first, strict=True)).sqrt()
    with torch.no_grad():
        for p, size, g in zip(by_hand.parameters(), sizes, first, strict=True):
            p += 0.1 * size**2 * g / norm
    _, second = loss_and_gradients(by_hand, batch)
    assert torch.equal(loss, expected)
    for p, g in zip(model.parameters(), second, strict=True):
        assert torch.allclose(p.grad, g, atol=1e-6)
    assert not torch.allclose(second[0], first[0], atol=1e-4)
    assert same(model.state_dict(), after_one_pass), "the second pass left something in the model"


def test_both_passes_of_sam_draw_the_same_dropout_masks():
    model, batch, masks = network(dropout=0.5), a_batch(), []
    model[4].register_forward_hook(lambda part, given, out: masks.append((out == 0) & (given[0] != 0)))

    def once() -> torch.Tensor:
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    torch.manual_seed(3)
    once()
    after_one_pass = torch.get_rng_state()
    torch.manual_seed(3)
    SAM(model, rho=1e-6).backward(once)
    assert torch.equal(torch.get_rng_state(), after_one_pass)
    assert masks[1].any()
    assert torch.equal(masks[1], masks[2])


def test_sam_leaves_frozen_parameters_and_survives_gradients_that_are_no_numbers():
    model, batch = network(dropout=0), a_batch()
    model[1].requires_grad_(False)
    before, worse = deepcopy(model.state_dict()), iter([float("inf"), 1.0])
    seen = []

    def once() -> torch.Tensor:
        seen.append(model[1].weight.clone())
        loss = F.cross_entropy(model(batch[0]), batch[1])
        (loss * next(worse)).backward()
        return loss

    SAM(model, rho=0.1).backward(once)
    assert torch.equal(seen[0], seen[1])
    assert model[1].weight.grad is None
    assert model[5].weight.grad.isnan().any(), "the scaler would not skip this step"
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_sam_of_gradients_that_are_zero_does_not_move():
    model = nn.Linear(2, 1, bias=False)

    def once() -> torch.Tensor:
        loss = (model(torch.zeros(1, 2)) * 0).sum()
        loss.backward()
        return loss

    SAM(model, rho=0.1).backward(once)
    assert torch.equal(model.weight.grad, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="rho 0"):
        SAM(model, rho=0)


def test_sam_climbs_by_the_gradients_of_the_whole_batch_and_whatever_their_scale():
    def ended(hardware: Hardware) -> torch.Tensor:
        run = make(steps=8, hardware=hardware, dropout=0)
        run.model[2] = nn.Identity()  # batch normalisation sees the statistics of a micro-batch
        optimizer = torch.optim.SGD(run.model.parameters(), lr=0.05)
        run = replace(run, optimizer=optimizer, schedule=constant(optimizer))
        list(train(replace(run, regularize=Chain([SAM(run.model, rho=0.2)]))))
        return run.model[1].weight.detach()

    whole = ended(Hardware("cpu"))
    assert torch.allclose(ended(Hardware("cpu", micro_batch=16)), whole, atol=1e-5)
    assert torch.allclose(ended(Hardware("cpu", precision="fp16")), whole, atol=1e-2)


def test_a_chain_of_sam_an_average_and_early_stopping_runs_from_the_command_line_and_in_a_sweep(lab, tmp_path):
    parts = (
        "{_target_:lab.regularize.sam.SAM,_partial_:true,rho:0.05},"
        "{_target_:lab.regularize.swa.SWA,_partial_:true,start:0.5,every:5},"
        "{_target_:lab.regularize.early_stop.EarlyStop,_partial_:true,patience:2}"
    )
    chosen = ["model=mlp", "regularize=chain", f"regularize.regularizers=[{parts}]", "steps=40"]
    ended = lab("train", *chosen)
    assert ended.code == 0, ended.err
    assert {"test/accuracy", "gap/accuracy"} <= json.loads((only_run(tmp_path) / "results.json").read_text()).keys()
    swept = lab("train", "-m", *chosen, "seed=1,2")
    assert swept.code == 0, swept.err
    assert swept.out.count("done") >= 2


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("{_target_:lab.regularize.sam.SAM,_partial_:true,roh:0.05}", "regularize.regularizers.0.roh: SAM takes no"),
        ("{_target_:lab.regularize.sam.SAM,_partial_:true}", "regularize.regularizers.0.rho is missing"),
        ("{_target_:lab.regularize.ema.EMA,_partial_:true,decay:high}", "regularizers.0.decay='high' is not a number"),
        ("{_target_:os.system,_partial_:true}", "regularizers.0: _target_ os.system is not one to be run"),
        ("{_target_:lab.regularize.ema.EMA,decay:0.9}", "regularizers.0.model is missing"),
    ],
)
def test_the_parts_of_a_chain_are_checked_as_it_is(lab, part, said):
    ended = lab("train", "model=mlp", "regularize=chain", f"regularize.regularizers=[{part}]", "steps=1")
    assert ended.code == 2
    assert said in ended.err


@pytest.mark.slow
def test_every_regularizer_is_swept_with_augmentations_of_both_kinds(lab):
    ended = lab(
        "train",
        "-m",
        "regularize=glob(*)",
        "augment=flip_crop,mixup",  # of the images, and of the labels too
        "model=mlp",
        "steps=2",
    )
    assert ended.code == 0, ended.err


def test_lookahead_draws_the_weights_back_to_the_slow_ones():
    from lab.regularize.lookahead import Lookahead

    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    lookahead = Lookahead(model, steps=5, every=2, decay=0.75)
    seen = []
    for _ in range(5):
        with torch.no_grad():
            model.weight += 1
        lookahead.step(model)
        seen.append(model.weight.item())
    # 1, then 0.25 * 2 = 0.5; 1.5, then 0.75 * 0.5 + 0.25 * 2.5 = 1; the last step returns to the slow weights
    assert seen == [1.0, 0.5, 1.5, 1.0, 1.0]
    other = Lookahead(model, steps=5, every=2, decay=0.75)
    other.load_state_dict(lookahead.state_dict())
    assert other.taken == 5
    with pytest.raises(ValueError, match="decay=1"):
        Lookahead(model, steps=5, decay=1)
