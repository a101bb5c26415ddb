"""Scores of pretrained models: each against a short reference, and what lab rank makes of them."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import weightedtau
from sklearn.covariance import LedoitWolf
from torch import nn

from lab.model_selection.agreement import mean_ranks, weighted_tau
from lab.model_selection.features import head_inputs
from lab.model_selection.h_score import h_score, ledoit_wolf
from lab.model_selection.knn import knn_accuracy
from lab.model_selection.leep import leep, source_probabilities
from lab.model_selection.linear_probe import linear_probe_accuracy
from lab.model_selection.logme import logme

SCORES = (logme, h_score, knn_accuracy, linear_probe_accuracy)


def sample(n: int, d: int, apart: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Features of four classes, whose means lie `apart`, in units of many sizes."""
    rng = np.random.default_rng(n + d)
    labels = rng.integers(0, 4, n)
    features = rng.normal(size=(n, d)) + apart * rng.normal(size=(4, d))[labels]
    return features * rng.gamma(1, size=d) + rng.normal(size=d), labels


@pytest.mark.parametrize(("n", "d"), [(80, 6), (40, 40), (30, 70)])
def test_logme_is_the_largest_evidence_of_a_bayesian_linear_model(n, d):
    features, labels = sample(n, d)

    def minus_evidence(logs: np.ndarray, y: np.ndarray) -> float:  # y ~ N(0, 1/beta + F F'/alpha), as it stands
        covariance = np.exp(-logs[1]) * np.eye(n) + np.exp(-logs[0]) * features @ features.T
        _, determinant = np.linalg.slogdet(covariance)
        return (n * np.log(2 * np.pi) + determinant + y @ np.linalg.solve(covariance, y)) / 2

    found = []
    for c in range(4):
        y = (labels == c).astype(float)
        starts = [minimize(minus_evidence, (a, b), (y,), "Nelder-Mead") for a in (-2, 2, 6) for b in (0, 4)]
        found.append(-min(start.fun for start in starts) / n)
    assert logme(features, labels) == pytest.approx(np.mean(found), abs=1e-5)


def test_leep_is_the_equation_of_the_paper():
    rng = np.random.default_rng(0)
    theta, labels = rng.dirichlet(np.ones(5), 60), rng.integers(0, 3, 60)
    joint = [[theta[labels == y, z].sum() / 60 for z in range(5)] for y in range(3)]
    total = 0.0
    for i in range(60):
        total += np.log(sum(joint[labels[i]][z] / sum(row[z] for row in joint) * theta[i, z] for z in range(5)))
    assert leep(theta, labels) == pytest.approx(total / 60, abs=1e-12)
    never = np.concatenate([theta, np.zeros((60, 2))], 1)
    assert leep(never, labels) == pytest.approx(total / 60, abs=1e-12)


def test_the_source_head_gives_the_probabilities_of_its_own_classes():
    head, features = nn.Linear(6, 9), torch.randn(20, 6)
    expected = head(features).softmax(1).detach().numpy()
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    assert source_probabilities(features.numpy(), weight, bias) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="reads 6 features, the model has 5"):
        source_probabilities(features.numpy()[:, :5], weight, bias)


@pytest.mark.parametrize(("n", "d"), [(80, 6), (30, 70)])
def test_h_score_is_a_ratio_of_covariances_with_and_without_shrinkage(n, d):
    features, labels = sample(n, d)
    centred = features - features.mean(0)
    between = np.cov(np.stack([centred[labels == y].mean(0) for y in labels]), rowvar=False, bias=True)
    plain = np.trace(np.linalg.pinv(np.cov(features, rowvar=False, bias=True)) @ between)
    assert h_score(features, labels, shrinkage=0) == pytest.approx(plain, rel=1e-8)
    shrunk = LedoitWolf().fit(features)
    regularised = np.trace(np.linalg.inv(shrunk.covariance_) @ ((1 - shrunk.shrinkage_) * between))
    assert h_score(features, labels) == pytest.approx(regularised, rel=1e-8)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    assert ledoit_wolf(u, s, d) == pytest.approx(shrunk.shrinkage_, rel=1e-8)


def test_shrinkage_keeps_the_h_score_of_noise_low_where_features_outnumber_examples():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(100, 300)), rng.integers(0, 4, 100)
    assert h_score(features, labels, shrinkage=0) == pytest.approx(3)  # as if noise told the four classes apart
    assert h_score(features, labels) < 1


def test_knn_asks_the_others_nearest_by_cosine():
    features, labels = sample(50, 5)
    right = 0
    for i in range(50):
        lengths = np.linalg.norm(features, axis=1)
        cosines = features @ features[i] / lengths / lengths[i]
        others = sorted((j for j in range(50) if j != i), key=lambda j: -cosines[j])[:5]
        votes = {y: sum(np.exp(cosines[j] / 0.07) for j in others if labels[j] == y) for y in range(4)}
        right += max(votes, key=lambda y: votes[y]) == labels[i]
    assert knn_accuracy(features, labels) == right / 50


def test_the_linear_probe_tells_on_examples_that_it_was_not_fitted_to():
    assert linear_probe_accuracy(*sample(200, 5, apart=4)) > 0.95
    assert linear_probe_accuracy(*sample(60, 300, apart=0)) < 0.5  # which it could learn by heart


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("n", "d"), [(60, 8), (25, 90)])
def test_a_score_grows_with_what_the_features_tell(score, n, d):
    values = [score(*sample(n, d, apart)) for apart in (0.0, 1.0, 5.0)]
    assert values == sorted(values)
    assert values[0] < values[2]


@pytest.mark.parametrize("score", SCORES)
def test_a_score_is_finite_whatever_the_sample_lacks(score):
    features, labels = sample(40, 6, apart=3)
    kept = labels != 2
    assert np.isfinite(score(features[kept], labels[kept]))  # a class
    named = np.where(labels == 3, 7, labels)
    assert score(features, named) == pytest.approx(score(features, labels))  # a number between
    once = np.where(np.arange(40) == 0, 9, labels)
    assert np.isfinite(score(features, once))  # all examples of a class but one
    for constant in (np.zeros((40, 6)), np.ones((40, 6)), np.full((40, 6), 0.1)):
        told = score(constant, labels)
        assert np.isfinite(told)  # any difference between the features
        assert told <= score(features, labels)
    exact = np.eye(4)[labels]
    assert np.isfinite(score(exact, labels))  # noise
    assert score(exact, labels) > score(features, labels)


@pytest.mark.parametrize("score", [*SCORES, leep])
def test_features_that_no_score_can_be_made_of_are_refused(score):
    features, labels = sample(20, 4)
    features[[3, 5], 1] = np.nan
    with pytest.raises(ValueError, match="of 2 of 20 examples are not finite; look at the model's weights"):
        score(features, labels)
    with pytest.raises(ValueError, match=r"20 examples of one class .* --examples="):
        score(np.ones((20, 4)), np.zeros(20, int))
    with pytest.raises(ValueError, match="are not"):
        score(np.ones((20, 4)), labels[:19])


def test_ranks_are_the_mean_over_scores_and_tau_weighs_the_best():
    assert mean_ranks([[0.3, 0.1, 0.2], [5.0, 5.0, 1.0]]) == [1.25, 2.25, 2.5]
    truth = [0.9, 0.8, 0.7, 0.6]
    assert weighted_tau(truth, truth) == pytest.approx(1)
    assert weighted_tau([3, 4, 2, 1], truth) < weighted_tau([4, 3, 1, 2], truth) < 1
    assert np.isnan(weighted_tau([1, 1, 1], [1, 2, 3]))


def torchvision_model(name: str) -> nn.Module:
    from torchvision import models

    return models.get_model(name, num_classes=7)


def timm_model(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=7)


@pytest.mark.parametrize(
    ("make", "name", "layer", "size"),
    [
        (torchvision_model, "resnet18", "fc", 64),
        (torchvision_model, "mobilenet_v3_small", "classifier.3", 64),
        (timm_model, "resnet10t", "fc", 64),
        (timm_model, "test_vit", "head", 160),
    ],
)
def test_the_features_are_what_the_last_layer_of_the_head_reads(make, name, layer, size):
    model, images = make(name), torch.randn(5, 3, size, size)
    features = head_inputs(model, images.split(2))
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    last = model.get_submodule(layer)
    with torch.no_grad():
        logits = model.eval()(images)
        assert torch.allclose(last(torch.from_numpy(features).float()), logits, atol=1e-4)


def test_the_maps_before_a_convolutional_head_are_averaged():
    model, images = torchvision_model("squeezenet1_1"), torch.randn(2, 3, 64, 64)
    features = head_inputs(model, [images])
    expected = model.eval().features(images).mean((2, 3)).detach().numpy()
    assert features == pytest.approx(expected, abs=1e-5)


def test_a_head_without_a_layer_to_read_at_is_named():
    with pytest.raises(ValueError, match="'1', the head of Sequential, calls no linear layer"):
        head_inputs(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), [torch.randn(2, 3)])


def rows(out: str) -> list[list[str]]:
    """The table's cells, header first."""
    lines = out.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("rank "))
    last = next(n for n, line in enumerate(lines) if n > first and not re.match(r"[\d-]", line))
    return [re.split(r"  +", line) for line in lines[first:last]]


@pytest.fixture
def weights(real_data, monkeypatch) -> dict[str, Path]:
    monkeypatch.setenv("LAB_DATA", str(real_data))
    found = {name: next(iter((real_data / "weights").glob(f"{name}-*.th")), None) for name in ("resnet20", "resnet56")}
    if None in found.values():
        pytest.skip("no weights of the CIFAR ResNets")
    return {name: path for name, path in found.items() if path}


@pytest.mark.slow
def test_pretrained_models_rank_above_a_random_one_on_cifar10(lab, weights):
    files = ",".join(map(str, [weights["resnet20"], weights["resnet56"], "null"]))
    sample = ("data=cifar10", "data.limit=300", "--examples=200")
    ended = lab("rank", *sample, "--zip", "model=resnet20,resnet56,resnet20", f"model.weights={files}")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("200 training examples of cifar10, 10 classes, seed 0;")
    header, *found = rows(ended.out)
    assert header == ["rank", "params", "LogME", "LEEP", "H-score", "kNN", "probe", "s", "candidate"]
    names = [weights["resnet56"].name, weights["resnet20"].name]
    assert [row[-1] for row in found] == [f"resnet56 {names[0]}", f"resnet20 {names[1]}", "resnet20 random"]
    assert [row[0] for row in found] == ["1.0", "2.0", "3.0"]
    assert [row[1] for row in found] == ["853k", "270k", "270k"]
    assert all(float(row[column]) > float(found[2][column]) for row in found[:2] for column in (2, 4, 5, 6))
    assert found[2][3] == "-"  # a random start has no source head
    assert all(float(row[3]) > -1.2 for row in found[:2])  # of 2.3 nats of ten classes, and these were its classes
    assert max(map(len, ended.out.splitlines())) <= 100
    assert "without pretrained weights: resnet20 random\nno fine-tuning runs of these in outputs\n" in ended.out
    assert not list(Path.cwd().iterdir())


@pytest.mark.slow
def test_a_pretrained_model_ranks_above_a_random_one_for_a_hundred_digits(lab, weights):
    images = ("data=digits", "data.shape=[3,32,32]", "data.mean=[0.3,0.3,0.3]", "data.std=[0.4,0.4,0.4]")
    command = ("rank", *images, "--examples=100", "model=resnet20", f"model.weights=null,{weights['resnet20']}")
    ended = lab(*command, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    best, other = found["candidates"]
    assert (best["pretrained"], other["pretrained"]) == (True, False)
    assert best["mean_rank"] < other["mean_rank"]
    assert best["scores"]["probe"] > other["scores"]["probe"] + 0.03
    assert found["examples"] == 100
    assert {*best["seconds"]} == {"features", *best["scores"]}
    again = json.loads(lab(*command, "--json").out)
    assert [row["scores"] for row in again["candidates"]] == [row["scores"] for row in found["candidates"]]


def test_one_candidate_that_fails_is_named_and_loses_no_other(lab, weights):
    files = ",".join(map(str, [weights["resnet20"], weights["resnet56"]]))
    sample = ("data=cifar10", "data.limit=80", "--examples=64")
    ended = lab("rank", *sample, "model=resnet20", f"model.weights={files}")
    assert ended.code == 1
    _, best, failed = rows(ended.out)
    assert (best[0], best[-1]) == ("1.0", f"resnet20 {weights['resnet20'].name}")
    assert failed == [*"-------", "-", f"resnet20 {weights['resnet56'].name}"]
    assert f"lab: resnet20 {weights['resnet56'].name}: model: " in ended.err
    assert "does not fit ResNet" in ended.err


MODELS = ("data=digits", "model=mlp", "model.hidden=[2],[16],[128]", "--examples=100")


@pytest.mark.slow
def test_the_scores_agreement_with_fine_tuning_runs_is_told(lab):
    def accuracy(hidden: int, *recipe: str) -> float:
        given = ("data=digits", "model=mlp", f"model.hidden=[{hidden}]", "steps=12", *recipe)
        ended = lab("train", *given)
        assert ended.code == 0, ended.err
        return float(re.findall(r"^test/accuracy +([\d.]+)$", ended.out, re.MULTILINE)[0])

    assert "no fine-tuning runs of these in outputs" in lab("rank", *MODELS).out
    full, large = "finetune_strategy=full", "data.batch_size=128"
    tuned = {16: accuracy(16, full), 128: accuracy(128, full)}
    ended = lab("rank", *MODELS)
    assert "2 fine-tuning runs in outputs\nthey are of 2 of the candidates, too few" in ended.out
    # of two recipes the better mean over seeds counts
    seeds = [accuracy(2, full), accuracy(2, full, "seed=1")]
    other = [accuracy(2, "finetune_strategy=linear_probe", large), accuracy(2, full, large)]
    tuned[2] = max(sum(seeds) / 2, *other)
    # of these none: another data set, and no start but a random one
    accuracy(16, full, "data.val_share=0.5", "optimizer.lr=0.01")
    accuracy(16, "finetune_strategy=scratch", "optimizer.lr=0.01")
    found = json.loads(lab("rank", *MODELS, "--json").out)
    told = {row["candidate"]: row for row in found["candidates"]}
    for hidden, runs in ((2, 4), (16, 1), (128, 1)):
        assert told[f"mlp hidden=[{hidden}]"]["fine_tuned"]["test/accuracy"] == pytest.approx(tuned[hidden], abs=1e-4)
        assert told[f"mlp hidden=[{hidden}]"]["fine_tuned"]["runs"] == runs
    scores = [row["scores"]["LogME"] for row in told.values()]
    truth = [row["fine_tuned"]["test/accuracy"] for row in told.values()]
    assert found["agreement"]["LogME"] == {"tau": pytest.approx(weightedtau(scores, truth).statistic), "n": 3}
    assert "LEEP" not in found["agreement"]
    printed = lab("rank", *MODELS).out
    header, *_, taus = rows(printed)
    assert header[-2:] == ["tuned", "candidate"]
    assert taus[-1] == "(tau with tuned, n=3)"
    assert "tuned: test/accuracy of the best recipe, the mean over its seeds; 6 fine-tuning runs in outputs" in printed
    assert max(map(len, printed.splitlines())) <= 100


OWN = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes: int):
        super().__init__(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))
"""


@pytest.mark.slow
def test_models_that_take_no_weights_are_scored_with_those_that_are_given(lab, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "net.yaml").write_text("_target_: mine.Net\nnum_classes: ${data.num_classes}\n")
    assert lab("train", "model=net", "epochs=3", "hydra.run.dir=run").code == 0
    assert lab("train", "model=net", "steps=2", "weights=run").code == 0
    ended = lab("rank", "data=digits", "model=net", "weights=run,null", "--examples=100", "--json")
    assert ended.code == 0, ended.err
    best, other = json.loads(ended.out)["candidates"]
    assert (best["candidate"], other["candidate"]) == ("net run", "net random")
    assert (best["pretrained"], other["pretrained"]) == (True, False)
    assert best["scores"]["LEEP"] is not None
    assert (best["fine_tuned"]["runs"], other["fine_tuned"]) == (1, None)
    failed = lab("rank", "data=digits", "model=net", "weights=nowhere.pt")
    assert failed.code == 1
    assert "weights: no weights at nowhere.pt" in failed.err


def test_what_only_trains_otherwise_is_one_candidate(lab):
    ended = lab(
        "rank", "-m", "model=mlp", "optimizer.lr=0.1,0.2", "finetune_strategy=full,linear_probe", "--examples=64"
    )
    assert ended.code == 0, ended.err
    (_, row) = rows(ended.out)
    assert row[-1] == "mlp"


@pytest.mark.slow
def test_a_command_that_compares_no_models_on_one_sample_is_refused_with_what_to_type(lab):
    for arguments, said in {
        ("seed=0,1",): "seed is not the same for all of them; give seed one value",
        ("data=digits,synthetic",): "data is not the same for all of them; give data one value",
        ("data.val_share=0.1,0.2",): "data.val_share is not the same for all of them; give data.val_share one value",
        ("model=mlp,simple_cnn,resnet20", "model.num_classes=10,10", "--zip"): "model has 3, model.num_classes has 2",
        ("model=resnet21",): "no option 'resnet21' in the group 'model'; did you mean 'resnet20'?",
        ("model=mlp", "model.hiden=3"): "no key 'model.hiden'; did you mean 'model.hidden'?",
        ("model=mlp", "model.hidden=yes"): "model.hidden='yes' is not a list of whole numbers",
        ("data=cifar10", "data.folder=nowhere"): "no CIFAR-10 in",
        ("--examples=1",): "--examples=1 is not a number from 2 on",
    }.items():
        ended = lab("rank", *arguments)
        assert ended.code == 2, arguments
        assert said in ended.err, ended.err
        assert not ended.out
    assert not os.listdir()
    assert "lab rank goes by lab's own sweeper" in lab("rank", "hydra/sweeper=basic").err


def test_classes_that_the_sample_lacks_are_counted(lab):
    ended = lab("rank", "model=mlp", "--examples=8")
    assert ended.code == 0, ended.err
    assert re.match(r"8 training examples of digits, [4-8] of 10 classes, seed 0", ended.out)
