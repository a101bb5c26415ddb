"""Scores carry their direction and their pictures; what is monitored comes of them, of the task and of the config."""

import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.assembly.dry_run import dry_run
from lab.config.search_space import SearchSettings
from lab.errors import ConfigError
from lab.metrics.directions import usual_direction
from lab.metrics.scores import Evaluation, Monitor, ResolvedMonitor
from lab.record.files import read_json
from lab.record.record import Record
from lab.record.tensorboard import TensorBoard
from lab.regularize.chain import Chain
from lab.regularize.early_stop import EarlyStop
from lab.sweep.table import TableRow, make_table
from lab.tasks.classification import Classification
from lab.train.loop import execute
from lab.train.scoring import evaluate
from tests.conftest import only_run
from tests.test_loop import make

RED = partial(Image.new, "RGB", (2, 2), "red")


def test_an_evaluation_is_a_mapping_of_names_to_numbers_that_can_be_sent():
    scores = Evaluation({"f1": 0.5, "cost": 2}, {"cost": "min"}, {"curve": RED}).with_split("val")
    assert scores == {"val/f1": 0.5, "val/cost": 2.0} == dict(scores)
    assert list(scores) == ["val/f1", "val/cost"]
    assert scores["val/f1"] == 0.5
    assert [scores.direction(name) for name in scores] == ["max", "min"]
    sent = pickle.loads(pickle.dumps(scores))
    assert sent == scores
    assert sent.directions == {"val/cost": "min"}
    assert sent.pictures["val/curve"]().size == (2, 2)
    both = scores | Evaluation({"gap/f1": 0.1})
    assert list(both) == ["val/f1", "val/cost", "gap/f1"]
    assert both.pictures == scores.pictures
    assert both.direction("gap/f1") is None
    with pytest.raises(ValueError, match="not max or min"):
        Evaluation({}, {"cost": "down"})


@pytest.mark.parametrize(
    ("direction", "names"),
    [
        (
            "max",
            "accuracy balanced_accuracy top5 top1_accuracy accuracy/cat macro_f1 mIoU mAP map50 map@50 rouge2 bleu mcc",
        ),
        (
            "min",
            "loss cross_entropy rmse_cm mse MAE val_loss nll perplexity error top5_error wer log_loss cross-entropy",
        ),
        (None, "speed cost topology mapping accuracy_loss neg_mean_squared_error r classes top lossless"),
    ],
)
def test_the_usual_names_tell_their_direction_and_others_do_not(direction, names):
    assert [(name, usual_direction(name)) for name in names.split()] == [(name, direction) for name in names.split()]


VAL = Evaluation({"val/loss": 2.0, "val/accuracy": 0.5, "val/tempo": 3.0})


@pytest.mark.parametrize(
    ("monitor", "scores", "resolved"),
    [
        (Monitor(), VAL, ("val/loss", "min")),
        (Monitor("val/accuracy"), VAL, ("val/accuracy", "max")),
        (Monitor("val/tempo", "max"), VAL, ("val/tempo", "max")),
        (Monitor(), replace(VAL, monitor="val/accuracy"), ("val/accuracy", "max")),
        (Monitor("val/tempo"), replace(VAL, directions={"val/tempo": "min"}), ("val/tempo", "min")),
        (Monitor("val/loss", "max"), replace(VAL, directions={"val/loss": "max"}), ("val/loss", "max")),
    ],
)
def test_the_monitor_comes_of_the_config_then_of_the_task_then_of_the_first_score(monitor, scores, resolved):
    assert monitor.watches(scores)
    assert not monitor.watches(Evaluation({"test/accuracy": 1.0, "gap/loss": 1.0}))
    assert monitor.resolve(scores) == ResolvedMonitor(*resolved)


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        (Monitor("val/acuracy"), "no score 'val/acuracy' to monitor; did you mean 'val/accuracy'"),
        (Monitor("val/tempo"), "give mode=max or mode=min"),
        (Monitor("val/loss", "max"), "mode=max would keep the worst weights"),
    ],
)
def test_a_monitor_that_is_missing_or_has_no_direction_or_the_wrong_one_is_refused(monitor, message):
    with pytest.raises(ValueError, match=message):
        monitor.resolve(VAL)
    with pytest.raises(ValueError, match="mode=up is not max or min"):
        Monitor(mode="up")


class Timed(Classification):
    """Reports a plain dict whose first score has no known direction."""

    monitor = "val/cross_entropy"

    def score(self, model, batches):
        return {"tempo": 1.0, **super().score(model, batches)}


def test_a_dry_run_resolves_what_is_monitored_and_refuses_what_cannot_be():
    run = make()
    assert dry_run(run).monitor == ResolvedMonitor("val/accuracy", "max")
    timed = replace(run, task=Timed(10))
    assert dry_run(timed).monitor == ResolvedMonitor("val/cross_entropy", "min")
    assert dry_run(replace(timed, monitor=Monitor("val/top5"))).monitor == ResolvedMonitor("val/top5", "max")
    for monitor, message in (
        (Monitor("val/tempo"), "give mode=max or mode=min"),
        (Monitor("val/cross_entropy", "max"), "would keep the worst weights"),
        (Monitor("val/speed"), "no score 'val/speed' to monitor"),
    ):
        with pytest.raises(ConfigError, match=message):
            dry_run(replace(timed, monitor=monitor))


def test_the_best_weights_and_the_patience_go_by_the_tasks_own_score(tmp_path):
    run = replace(make(steps=60), task=Timed(10))
    stop = EarlyStop(Monitor(), patience=5)
    record = Record(tmp_path)
    execute(replace(run, regularize=Chain([stop])), record)
    best = record.checkpointer.best
    assert best["score"] == best["scores"]["val/cross_entropy"] == stop.best
    assert best["scores"]["val/tempo"] == 1.0


def test_classification_draws_its_confusion_matrix_and_its_images_and_other_tasks_nothing(tmp_path):
    def images(run, directory):
        record = Record(
            directory, writer=TensorBoard, introduce=lambda record: record.draw_batch(run, dry_run(run).batch)
        )
        execute(run, record)
        record.close()
        return EventAccumulator(str(directory), {"images": 100}).Reload().Tags()["images"]

    run = make(steps=40)
    assert sorted(images(run, tmp_path / "drawn")) == ["inputs", "test/confusion", "val/confusion"]
    assert images(replace(make(steps=40), task=Plain(10)), tmp_path / "plain") == []
    (picture,) = evaluate(run).pictures.values()
    assert picture().size[0] > 100


class Plain:
    """Has what a task must have, and no more."""

    def __init__(self, num_classes: int):
        self.task = Classification(num_classes)

    def loss(self, model, batch):
        return self.task.loss(model, batch)

    def score(self, model, batches):
        return dict(self.task.score(model, batches))


def test_a_run_writes_what_it_monitored_into_its_manifest_and_its_sweep_sorts_by_it(lab, tmp_path):
    assert lab("train", "model=mlp", "steps=3").code == 0
    assert read_json(only_run(tmp_path) / "manifest.json")["monitor"] == {"name": "val/accuracy", "mode": "max"}
    ended = lab("train", "-m", "model=mlp", "steps=30", "optimizer.lr=1e-6,0.01,1e-5", "monitor=val/cross_entropy")
    assert ended.code == 0, ended.err
    (table,) = tmp_path.glob("outputs/sweeps/*/table.csv")
    header, *rows = [line.split(",") for line in table.read_text().splitlines()]
    losses = [float(row[header.index("val/cross_entropy")]) for row in rows]
    assert losses == sorted(losses)
    assert rows[0][1] == "0.01"


SEARCH = SearchSettings("tpe", None, 100, 4, 20, None, None, None, 0)


def test_a_search_goes_by_what_its_runs_monitor_unless_it_is_told_otherwise():
    monitors = [("val/loss", "min"), ("val/accuracy", "max")]
    for settings, objectives, directions in (
        (SEARCH, ["val/loss"], ["min"]),
        (replace(SEARCH, objective="test/accuracy"), ["test/accuracy"], ["max"]),
        (replace(SEARCH, objective=["val/accuracy", "val/loss"]), ["val/accuracy", "val/loss"], ["max", "min"]),
        (replace(SEARCH, objective="parameters", direction="min"), ["parameters"], ["min"]),
    ):
        resolved = settings.resolve(monitors)
        assert (resolved.objectives, resolved.directions) == (objectives, directions)
    with pytest.raises(ValueError, match=r"search\.direction= max or min"):
        replace(SEARCH, objective="parameters").resolve(monitors)
    with pytest.raises(ValueError, match="without a validation set"):
        SEARCH.resolve([])


@pytest.mark.parametrize(
    ("objective", "direction"),
    [(None, "max"), ("test/loss", "max"), (["val/loss", "val/accuracy"], ["min", "min"]), ("val/accuracy", "min")],
)
def test_a_search_for_the_worst_trials_is_refused(objective, direction):
    monitors = [("val/loss", "min"), ("val/accuracy", "max")]
    with pytest.raises(
        ValueError, match=r"search\.direction=\w+ would look for the worst .*leave search\.direction= out"
    ):
        replace(SEARCH, objective=objective, direction=direction).resolve(monitors)
    right = replace(SEARCH, objective=["val/loss", "parameters"], direction=["min", "max"])
    assert right.resolve(monitors).directions == ["min", "max"]


@pytest.mark.parametrize("chosen", ["search.direction=min", "search.objective=val/cross_entropy search.direction=max"])
def test_a_search_for_the_worst_trials_is_refused_before_it_starts(lab, tmp_path, chosen):
    space = ("search=tpe", "search.trials=2", "model=mlp", "steps=2", "optimizer.lr=interval(0.001,0.1)")
    ended = lab("train", "-m", *space, *chosen.split())
    assert ended.code == 2
    assert "worst" in ended.err
    assert "search.direction=" in ended.err
    assert not list(tmp_path.glob("outputs/runs/**/status.json"))


def test_a_table_compares_only_runs_that_monitor_the_same_score(tmp_path):
    def row(number: int, monitor: str, mode: str, score: float, state: str = "done") -> TableRow:
        return TableRow(number, {}, state, {monitor: score}, 1.0, str(number), tmp_path, monitor, mode)

    rows = [
        row(0, "val/accuracy", "max", 0.5),
        row(1, "val/loss", "min", 0.4),
        row(2, "val/accuracy", "max", 0.9),
        row(3, "val/loss", "min", 0.1),
        row(4, "val/loss", "min", 0.0, "failed"),
    ]
    table = make_table(rows, [])
    assert [line[0] for line in table.rows] == [2, 0, 3, 1, 4]
    assert table.best is None
    assert make_table(rows[::2], []).best == tmp_path


def test_a_table_says_how_many_runs_share_the_best_score_and_shows_it_first(tmp_path):
    def row(number: int, scores: dict[str, float], state: str = "done") -> TableRow:
        return TableRow(number, {"lr": "1"}, state, scores, 1.0, str(number), tmp_path / str(number), "val/f1", "max")

    def scored(value: float) -> dict[str, float]:
        return {"test/accuracy": 0.1, "val/f1": value, "test/f1": value, "gap/f1": 0.0}

    table = make_table([row(n, scored(value)) for n, value in enumerate((0.5, 0.9, 0.9, 0.1, 0.9))], ["lr"])
    assert (table.best, table.ties) == (tmp_path / "1", 2)
    assert table.main_columns == ["n", "lr", "state", "val/f1", "test/f1", "gap/f1", "seconds", "id"]
    assert make_table([row(0, scored(0.5)), row(1, scored(0.9))], []).ties == 0
    unscored = make_table([row(0, {}), row(1, {}, "failed")], [])
    assert (unscored.best, unscored.ties) == (None, 0), "a run without the score is not the best by it"


def test_scores_may_be_tensors():
    assert Evaluation({"mse": torch.tensor(0.5)}).with_split("val") == {"val/mse": 0.5}
