"""What a run leaves on disk, and what happens when the disk is not what it was."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab import errors
from lab.errors import Diverged, RunInUse, Stopped
from lab.metrics.scores import Evaluation
from lab.pictures import are_images, draw_confusion_matrix, draw_image_grid
from lab.record import checkpoints
from lab.record.console import Console
from lab.record.files import lock_directory, read_json, slugify, write_json
from lab.record.record import Record
from lab.record.status import changed_files, hash_sealed_files, is_done, read_status, write_status
from lab.record.tensorboard import TensorBoard, truncate_events
from lab.tasks.classification import Classification
from lab.train.loop import execute, train
from tests.conftest import scores
from tests.test_loop import make, same, weights


@given(st.text())
def test_a_slug_is_one_safe_file_name(text):
    name = slugify(text)
    assert len(name) <= 80
    assert "/" not in name
    assert not name.startswith(".")
    assert name.isascii()
    assert slugify(name) == name


def test_json_is_whole_and_never_holds_what_json_cannot(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    (tmp_path / "a.json").write_text('{"x": ')
    assert read_json(tmp_path / "a.json", "torn") == "torn"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_directory_has_one_owner_until_that_process_ends(tmp_path):
    hold = f"""
import pathlib, time
from lab.record.files import lock_directory
with lock_directory(pathlib.Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunInUse, match=f"process {holder.pid} is working in"), lock_directory(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with lock_directory(tmp_path):
        pass


def test_a_checkpoint_with_one_flipped_bit_is_corrupt(tmp_path):
    path = tmp_path / "last.pt"
    checkpoints.save_checkpoint(path, {"weights": torch.arange(1000.0)})
    assert checkpoints.load_checkpoint(path)["weights"][7] == 7
    content = bytearray(path.read_bytes())
    content[content.find(torch.arange(1000.0).numpy().tobytes()) + 401] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.CorruptCheckpoint, match="has changed"):
        checkpoints.load_checkpoint(path)


def test_a_run_goes_on_in_the_same_bits_after_a_crash_and_a_corrupt_checkpoint(tmp_path):
    unbroken = make(steps=70, dropout=0.2)
    record = Record(tmp_path / "whole", writer=TensorBoard)
    execute(unbroken, record)
    record.close()
    record = Record(tmp_path / "broken", writer=TensorBoard)
    broken_run = make(steps=70, dropout=0.2)
    for step in train(broken_run, record.restore(broken_run)):
        record.step(broken_run, step)
        if step.n in (20, 40):
            record.save(broken_run, step)
        if step.n == 55:
            break  # as if killed, with lines after the last checkpoint
    record.close()
    last = tmp_path / "broken" / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    for _ in range(2):  # the second time as if killed after scoring the test set, before the seal
        resumed, record = make(steps=70, dropout=0.2), Record(tmp_path / "broken", writer=TensorBoard)
        execute(resumed, record)
        record.close()
        assert same(weights(unbroken), weights(resumed))
        whole, again = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "broken"))
        for kind in ("train/loss", "test/accuracy"):
            assert [line for line in whole if kind in line] == [line for line in again if kind in line]
        for tag in ("train/loss", "test/accuracy"):
            assert scalars(tmp_path / "whole")[tag] == scalars(tmp_path / "broken")[tag]


def test_the_step_of_a_lost_checkpoint_is_told(tmp_path):
    run, record = make(), Record(tmp_path)
    for step in train(run, record.restore(run)):
        if step.n in (20, 40):
            record.save(run, step)
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"PK")
    record = Record(tmp_path)
    assert record.restore(make()) == 20
    assert "last.pt" in record.checkpointer.problems[0]


class Notes(Console):
    def __init__(self):
        super().__init__(steps=0, quiet=True)
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_steps_that_no_line_tells_of_are_counted_as_lost(tmp_path):
    run, record = make(steps=70), Record(tmp_path)
    save_every = run.cadence.save_every
    for step in train(run, record.restore(run)):
        if step.n in (save_every, 2 * save_every):
            record.save(run, step)
        if step.n == 2 * save_every:
            break
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"PK")
    notes = Notes()
    assert Record(tmp_path, notes).restore(make(steps=70)) == save_every
    assert f"lost {save_every} steps at least, going on from step {save_every}" in notes.notes[0]


def train_to_a_checkpoint(directory):
    run, record = make(steps=70), Record(directory, writer=TensorBoard)
    for step in train(run, record.restore(run)):
        record.step(run, step)
        if step.n == 40:
            record.save(run, step)
            break
    record.close()


def test_lines_that_were_lost_are_noticed_and_the_run_is_no_longer_exact(tmp_path):
    train_to_a_checkpoint(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:1] + lines[2:]))
    notes = Notes()
    Record(tmp_path, notes, writer=TensorBoard).restore(make(steps=70))
    assert notes.notes == ["metrics.jsonl lacks 1 line that was written before the checkpoint"]
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"exact": False, "inexact": notes.notes}


def test_events_that_were_lost_are_written_again(tmp_path):
    train_to_a_checkpoint(tmp_path)
    before = scalars(tmp_path)["train/loss"]
    (events,) = tmp_path.glob("events.*")
    events.write_bytes(events.read_bytes()[: events.stat().st_size // 2])
    assert len(scalars(tmp_path).get("train/loss", [])) < len(before)
    record = Record(tmp_path, writer=TensorBoard)
    record.restore(make(steps=70))
    record.close()
    assert sorted(scalars(tmp_path)["train/loss"]) == before


def scalars(directory) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(directory)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_what_is_written(tmp_path):
    writer = TensorBoard(tmp_path)
    for step in range(1, 6):
        writer.scalars(step, {"train/loss": 1 / step, "train/lr": 0.1})
    writer.image(3, "inputs", b"png", (4, 2))
    writer.close()
    assert scalars(tmp_path)["train/loss"] == [(n, pytest.approx(1 / n)) for n in range(1, 6)]
    truncate_events(tmp_path, 2)
    assert [n for n, _ in scalars(tmp_path)["train/loss"]] == [1, 2]


def test_a_status_says_done_only_with_the_hashes_of_what_it_seals(tmp_path):
    assert read_status(tmp_path) == {"state": "pending"}
    for name in ("config.yaml", "manifest.json", "metrics.jsonl", "results.json"):
        (tmp_path / name).write_text(name)
    checkpoints.save_checkpoint(tmp_path / "checkpoints" / "best.pt", {})
    write_status(tmp_path, "done", sealed=hash_sealed_files(tmp_path))
    assert is_done(tmp_path)
    assert changed_files(tmp_path, read_status(tmp_path), checkpoints=True) == []
    (tmp_path / "results.json").write_text("better")
    assert changed_files(tmp_path, read_status(tmp_path), checkpoints=False) == ["results.json"]


def test_scores_that_are_not_finite_are_never_best(tmp_path):
    run, record = make(), Record(tmp_path)
    with pytest.raises(Diverged, match="val/accuracy is nan after step 3"):
        record.scores(run, 3, Evaluation({"val/accuracy": float("nan")}))
    assert not (tmp_path / "metrics.jsonl").exists()
    assert not (tmp_path / "checkpoints" / "best.pt").exists()


def test_metrics_lines_are_json_with_step_and_epoch(tmp_path):
    run = make(steps=40)
    execute(run, Record(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all({"step", "epoch"} <= line.keys() for line in lines)
    assert [(line["step"], line["epoch"]) for line in lines if "train/loss" in line] == [
        (n, n / 20) for n in (10, 20, 30, 40)
    ]
    assert [line["step"] for line in lines if "test/accuracy" in line] == [40]


def test_pictures_show_every_image_and_every_count():
    sheet = draw_image_grid(torch.rand(9, 3, 8, 8))
    assert sheet.size[0] == sheet.size[1] >= 26
    assert are_images(torch.rand(9, 1, 8, 8))
    assert not any(map(are_images, (torch.rand(9, 5), torch.rand(0, 3, 8, 8), torch.rand(9, 5, 8, 8), [])))
    picture = draw_confusion_matrix([[8, 2], [0, 5]], ["cat", "dog"])
    colours = {colour for _, colour in picture.getcolors(10_000)}
    assert (8, 48, 107) in colours, "a row that is all right is darkest"
    assert draw_confusion_matrix([[1] * 100] * 100, [str(n) for n in range(100)]).size[0] < 1100


def test_a_run_leaves_about_ten_confusion_matrices_and_the_last_one(tmp_path):
    record = Record(tmp_path, writer=TensorBoard)
    execute(make(steps=600), record)
    record.close()
    events = EventAccumulator(str(tmp_path), {"images": 100}).Reload()
    steps = [event.step for event in events.Images("val/confusion")]
    assert 10 <= len(steps) <= 11
    assert steps[-1] == 600
    assert len(events.Images("test/confusion")) == 1


def test_a_run_whose_best_weights_are_damaged_starts_again_and_ends_the_same(tmp_path):
    whole, broken_run = make(steps=70), make(steps=70)
    results = execute(whole, Record(tmp_path / "whole"))
    stop = {45: "killed"}.get
    with pytest.raises(Stopped):
        execute(broken_run, Record(tmp_path / "broken"), stop=stop)
    best = tmp_path / "broken" / "checkpoints" / "best.pt"
    best.write_bytes(best.read_bytes()[:-100])
    record, resumed = Record(tmp_path / "broken"), make(steps=70)
    assert scores(execute(resumed, record)) == scores(results)
    assert "best.pt" in record.checkpointer.problems[0]
    assert same(weights(whole), weights(resumed))


class BestAtFirst(Classification):
    """Scores the share of wrong answers as accuracy, so that the best weights are the first."""

    def score(self, model, batches):
        return {"accuracy": 1 - super().score(model, batches)["accuracy"]}


def paced(pause):
    run = make(steps=70)
    return replace(run, cadence=replace(run.cadence, save_pause=pause), task=BestAtFirst(10))


def test_checkpoints_within_the_pause_are_put_off_and_the_last_and_the_best_are_the_same(tmp_path):
    for name, pause in (("all", 0.0), ("few", 1000.0)):
        execute(paced(pause), Record(tmp_path / name))
    folders = [tmp_path / name / "checkpoints" for name in ("all", "few")]
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [
        ["best.pt", "last.pt", "previous.pt"],
        ["best.pt", "last.pt"],
    ]
    for name in ("best.pt", "last.pt"):
        full, few = (checkpoints.load_checkpoint(folder / name) for folder in folders)
        states = [state["model"] if name == "best.pt" else state["run"]["model"] for state in (full, few)]
        assert same(*(list(state.values()) for state in states))
        assert full.get("best", full.get("score")) == few.get("best", few.get("score"))
    assert full["best"]["step"] == 20


def test_a_stop_within_the_pause_saves_and_an_error_leaves_the_best_weights_so_far(tmp_path):
    with pytest.raises(Stopped):
        execute(paced(1000.0), Record(tmp_path / "stopped"), stop={45: "killed"}.get)
    assert checkpoints.load_checkpoint(tmp_path / "stopped" / "checkpoints" / "last.pt")["step"] == 45

    def break_down(n):
        assert n < 45

    record = Record(tmp_path / "failed")
    with pytest.raises(AssertionError):
        execute(paced(1000.0), record, stop=break_down)
    assert not (tmp_path / "failed" / "checkpoints").exists()
    record.close()
    assert checkpoints.load_checkpoint(tmp_path / "failed" / "checkpoints" / "best.pt")["step"] == 20
    assert Record(tmp_path / "failed").restore(paced(0.0)) == 0


def test_without_a_terminal_loss_lr_and_time_are_a_line_now_and_then(capsys, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("lab.record.console.time.monotonic", lambda: clock[0])
    with Console(steps=400) as console:
        for step in range(1, 101):
            clock[0] += 0.5
            console.advance(step, step / 10, {"loss": 1 / step, "lr": 0.1})
        console.line(100, 10.0, {"val/accuracy": 0.5})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["20/400", "40/400", "60/400", "80/400", "100/400"]
    assert lines[0].split() == ["step", "20/400", "epoch", "2", "loss", "0.05", "lr", "0.1", "10.0", "s"]
