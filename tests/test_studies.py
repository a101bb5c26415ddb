"""Ablations, claims, decisions and repeated runs, each on the digits in a few steps."""

import json
import re

import numpy as np
import pytest
import yaml

from lab.errors import ConfigError
from lab.execution.outcome import Outcome
from lab.report.ablation import main_effects, parse_ablation, scores_by_seed
from lab.report.claims import parse_paper
from lab.report.collect import read_runs
from lab.statistics.equivalence import ClaimVerdict
from lab.statistics.sequential import Decision
from lab.sweep.decision import DecidingJobs, Question
from tests.run_directories import write_run

FACTORS = {"cosine": "schedule=constant", "adam": {"sgd": "optimizer=sgd", "adamw": "optimizer=adamw"}}
SMALL = ["data=synthetic", "data.num_examples=64", "model=mlp", "steps=4"]


def ablation_of(tmp_path, **content):
    return parse_ablation(tmp_path / "a.yaml", {"base": ["model=mlp"], "factors": FACTORS, "seeds": 2} | content)


@pytest.mark.parametrize(
    ("design", "variants"),
    [
        ("leave_one_out", ["full recipe", "without cosine", "adam: sgd", "adam: adamw"]),
        ("add_one", ["all off", "only cosine", "only adam"]),
        ("path", ["full recipe", "without cosine", "… adam: sgd"]),
        (
            "factorial",
            [
                "full recipe",
                "adam: sgd",
                "adam: adamw",
                "without cosine",
                "without cosine, adam: sgd",
                "without cosine, adam: adamw",
            ],
        ),
    ],
)
def test_a_design_has_these_variants(tmp_path, design, variants):
    ablation = ablation_of(tmp_path, design=design)
    assert [variant.name for variant in ablation.variants] == variants
    assert len(ablation.jobs()) == 2 * len(variants)


def test_a_variant_overrides_its_recipe(tmp_path):
    ablation = ablation_of(tmp_path, base="model=mlp optimizer=adam schedule=cosine", seeds=[7])
    overrides = {variant.name: words for variant, words in ablation.jobs()}
    assert overrides["full recipe"] == ["model=mlp", "optimizer=adam", "schedule=cosine", "seed=7"]
    assert overrides["adam: sgd"] == ["model=mlp", "optimizer=sgd", "schedule=cosine", "seed=7"]
    assert overrides["without cosine"] == ["model=mlp", "optimizer=adam", "schedule=constant", "seed=7"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"design": "random"}, "no design 'random'; there is: leave_one_out"),
        ({"factors": []}, "takes names with what turns each off"),
        ({"factors": {"x": 3}}, "takes overrides"),
        ({"factors": {"x": "cosine"}}, "'cosine' is no override"),
        ({"seeds": 0}, "not a number of seeds"),
        ({"seed": 1}, "did you mean 'seeds'"),
    ],
)
def test_a_wrong_ablation_says_what_it_takes(tmp_path, content, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        ablation_of(tmp_path, **content)


def test_main_effects_of_a_factorial_design(tmp_path):
    ablation = ablation_of(tmp_path, design="factorial", seeds=6)
    rng, names = np.random.default_rng(0), {}
    effects = {"without cosine": -0.2, "adam: sgd": 0.1, "adam: adamw": 0.0}
    for number, (variant, _) in enumerate(ablation.jobs()):
        seed = number // len(ablation.variants)
        score = 0.5 + sum(effects[level.name] for level in variant.levels) + 0.001 * rng.normal()
        run = write_run(tmp_path / "runs", {"model.variant": variant.name}, seed, {"accuracy": score})
        names[run.name[-8:]] = variant.name
    runs, _ = read_runs([tmp_path / "runs"])
    rows = main_effects(ablation, scores_by_seed(runs, names, "test/accuracy"), "max").rows
    found = {row[0]: float(row[2]) for row in rows}
    assert found == pytest.approx(effects, abs=0.002)
    assert all(row[1] == 6 for row in rows)


@pytest.mark.slow
def test_an_ablation_is_planned_run_shared_and_shown(lab, tmp_path):
    folder = tmp_path / "experiments" / "tiny"
    folder.mkdir(parents=True)
    content = {"base": SMALL, "factors": {"adam": "optimizer=sgd"}, "seeds": 2}
    (folder / "ablation.yaml").write_text(yaml.safe_dump(content))
    planned = lab("ablate", "tiny/ablation", "--plan")
    assert planned.code == 0, planned.err
    assert "4 jobs: 4 new" in planned.out
    ran = lab("ablate", "tiny/ablation", "--to", "md", "--out", "paper")
    assert ran.code == 0, ran.err
    assert re.search(r"full recipe +2 .*\n.*without adam +2 ", ran.out)
    assert "| without adam | 2 |" in (tmp_path / "paper" / "ablation.md").read_text()
    more = lab("ablate", "tiny/ablation", "--seeds", "3", "--plan")
    assert "2 new" in more.out
    assert "4 done" in more.out
    wrong = lab("ablate", "tiny/ablatoin")
    assert wrong.code == 2
    assert "did you mean 'tiny/ablation'" in wrong.err
    assert lab("train", "--help").code == 0  # an ablation is no experiment
    assert "tiny/ablation" not in lab("train", "experiment=tiny/ablation").out


def claim_of(tmp_path, **content):
    paper = parse_paper(tmp_path / "paper.yaml", {"seeds": 3, "claims": [{"name": "it works"} | content]})
    return paper.claims[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "has no run"),
        ({"run": "model=mlp", "value": 0.9}, "how far off still counts"),
        ({"run": "model=mlp"}, "takes one of value, at_most, at_least"),
        ({"run": "model=mlp", "value": "90%", "tolerance": 0.1}, "value is '90%', not a number"),
        ({"run": "model=mlp", "value": 0.9, "tolerance": 0.1, "reported": "best"}, "the best of how many runs"),
        ({"better": "model=mlp"}, "has no than"),
        ({"run": "model=mlp", "at_least": 0.9, "needs": "tpu"}, "needs: takes gpu"),
        ({"run": "model=mlp", "valeu": 0.9}, "did you mean"),
    ],
)
def test_a_wrong_claim_says_what_it_takes(tmp_path, content, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        claim_of(tmp_path, **content)


def test_claims_of_each_kind_are_judged(tmp_path):
    value = claim_of(tmp_path, run="model=mlp", value=0.9, tolerance=0.02)
    assert value.judge([{0: 0.9, 1: 0.901, 2: 0.899}], "max").verdict == ClaimVerdict.REPRODUCED
    assert value.judge([{0: 0.7, 1: 0.701, 2: 0.699}], "max").verdict == ClaimVerdict.NOT_REPRODUCED
    direction = claim_of(tmp_path, better="a=1", than="a=2", by=0.05)
    gains = [{seed: 0.8 + 0.01 * seed for seed in range(3)}, {seed: 0.7 + 0.0101 * seed for seed in range(3)}]
    assert direction.judge(gains, "max").verdict == ClaimVerdict.REPRODUCED
    assert direction.judge(gains, "min").verdict == ClaimVerdict.NOT_REPRODUCED
    bound = claim_of(tmp_path, run="a=1", at_most=0.5)
    assert bound.judge([{0: 0.4, 1: 0.41, 2: 0.39}], "max").verdict == ClaimVerdict.REPRODUCED
    best = claim_of(tmp_path, run="a=1", value=0.92, reported="best", n=5, spread=0.01, tolerance=0.005)
    assert best.target([0.9, 0.91], "max") == pytest.approx(0.92 - 0.0116296, abs=1e-6)


@pytest.mark.slow
def test_a_paper_is_reproduced_locked_and_written_down(lab, tmp_path):
    folder = tmp_path / "experiments" / "tiny"
    folder.mkdir(parents=True)
    claims = [
        {"name": "training runs", "source": "Table 1", "run": SMALL, "metric": "test/accuracy", "at_least": -1},
        {"name": "a | better", "better": SMALL, "than": [*SMALL, "optimizer=sgd"], "by": 2},
    ]
    paper = {"title": "Tiny", "source": "arXiv:0", "seeds": 2, "claims": claims}
    (folder / "paper.yaml").write_text(yaml.safe_dump(paper))
    (folder / "README.md").write_text("# mine\n\nbefore\n")
    first = lab("reproduce", "tiny")
    assert first.code == 5, first.err
    assert re.search(r"training runs +Table 1 .* REPRODUCED", first.out)
    assert re.search(r"a \| better .* NOT REPRODUCED", first.out)
    text = (folder / "README.md").read_text()
    assert text.startswith("# mine\n\nbefore\n")
    assert text.count("lab reproduce: end") == 1
    (folder / "README.md").write_text(text + "after\n")
    lock = json.loads((folder / "paper.lock.json").read_text())
    assert lock["arms"][" ".join(SMALL)]["config"]["data.num_examples"] == 64
    assert str(tmp_path) not in json.dumps(lock)
    paper["claims"] = claims[:1]
    (folder / "paper.yaml").write_text(yaml.safe_dump(paper))
    again = lab("reproduce", "tiny", "optimizer.lr=0.02")
    assert again.code == 0, again.err
    assert "since the claims were locked" in again.out
    assert "optimizer.lr: 0.001 then, 0.02 now" in again.out
    text = (folder / "README.md").read_text()
    assert text.count("lab reproduce: end") == 1
    assert text.endswith("after\n")


class FakeJob:
    def __init__(self, arm, seed):
        self.identity = self
        self.id = f"{arm}-{seed}"


def decide(tmp_path, scores, metric="test/accuracy", margin=None):
    """Feed the scores of arms by seed, in the order in which the source asks for them."""
    question = Question([f"arm {arm}" for arm in range(len(scores))], range(len(scores[0])), metric, "max", margin)
    jobs = {(arm, seed): FakeJob(arm, seed) for arm in range(len(scores)) for seed in range(len(scores[0]))}
    source, given = DecidingJobs(question, jobs), 0
    while group := source.next():
        arm, seed = source.places[group[0].id]
        state = "done" if scores[arm][seed] is not None else "diverged"
        results = {"test/accuracy": scores[arm][seed]} if state == "done" else {}
        source.on_ended(group[0], Outcome(tmp_path, state, results))
        given += 1
    return source, given


def test_pairs_are_given_until_it_is_decided(tmp_path):
    source, given = decide(tmp_path, [[0.9] * 30, [0.8] * 30])
    assert (source.decision, source.pairs, given) == (Decision.BETTER, 8, 16)
    source, given = decide(tmp_path, [[0.9] * 30, [0.9] * 30])
    assert (source.decision, given) == (Decision.UNDECIDED, 60)
    source, _ = decide(tmp_path, [[0.9] * 30, [0.9] * 30], margin=0.05)
    assert source.decision == Decision.NO_DIFFERENCE


def test_a_seed_of_which_a_run_diverged_does_not_count(tmp_path):
    source, given = decide(tmp_path, [[None, None, *[0.9] * 28], [0.8] * 30])
    assert (source.decision, source.pairs, given) == (Decision.BETTER, 8, 20)


def test_a_race_gives_no_more_jobs_of_dropped_arms(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.01, 30)
    source, given = decide(tmp_path, [list(base + mean) for mean in (0.9, 0.5, 0.89)])
    assert set(source.lost) == {1, 2}
    assert given < 60


@pytest.mark.slow
def test_lab_decide_answers_and_goes_on(lab, tmp_path):
    arms = ["optimizer.lr=0.01", "optimizer.lr=1e-9"]
    answered = lab("decide", *arms, "model=mlp", "steps=15", "--up-to", "10", "hydra.launcher.workers=2")
    assert answered.code == 0, answered.err
    assert answered.out.splitlines()[-1].startswith("BETTER: A (optimizer.lr=0.01) is better than B")
    again = lab("decide", *arms, "model=mlp", "steps=15", "--up-to", "10", "hydra.launcher.workers=2")
    assert again.out.splitlines()[-1] == answered.out.splitlines()[-1]
    for wrong, message in (
        (["--up-to", "3"], "too few for any answer"),
        (["--at-least", "-1"], "no difference"),
    ):
        refused = lab("decide", *arms, "model=mlp", *wrong)
        assert (refused.code, message in refused.err) == (2, True), refused.err
    assert "neither overrides" in lab("decide", "abcd", "efgh").err


@pytest.mark.slow
def test_a_run_is_run_again_and_compared(lab, tmp_path):
    assert lab("train", *SMALL).code == 0
    run = next((tmp_path / "outputs" / "runs").glob("*/*"))
    again = lab("rerun", run.name[-8:])
    assert again.code == 0, again.err
    assert "bits: the same" in again.out
    assert len(list(run.parent.iterdir())) == 2
    other = lab("rerun", run.name[-8:], "seed=3", "final=last")
    assert re.search(r"seed +0 +3", other.out)
    assert "tensors differ" in other.out
