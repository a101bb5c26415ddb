"""lab report: on run directories whose truth is known."""

import csv
import io
import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats

from lab.cli.report import main
from lab.errors import ConfigError
from lab.report.collect import choose_metric, read_runs
from lab.report.report import make_report
from tests.run_directories import write_run

GOOD, BAD = [0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96], [0.70, 0.72, 0.69, 0.74, 0.75, 0.73, 0.71]


def write_two(folder, key="optimizer.lr", values=(0.1, 0.01)):
    for value, scores in zip(values, (GOOD, BAD), strict=True):
        for seed, score in enumerate(scores):
            write_run(folder, {key: value}, seed, {"accuracy": score})


def report_of(folder, **options):
    runs, notes = read_runs([folder])
    metric, mode = choose_metric(runs, options.pop("metric", None), options.pop("mode", None))
    return make_report(runs, metric, mode, notes=notes, **options)


def printed(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_conditions_are_paired_by_their_seeds(tmp_path):
    write_two(tmp_path)
    report = report_of(tmp_path, baseline="optimizer.lr=0.01")
    best = report.ranked[0]
    assert (best.label, len(best.scores)) == ("optimizer.lr=0.1", 7)
    two = best.comparison
    assert two.paired
    assert two.difference == pytest.approx(np.mean(GOOD) - np.mean(BAD))
    assert two.p == pytest.approx(2 / 2**7)
    low, high = stats.ttest_rel(GOOD, BAD).confidence_interval()
    assert (two.interval.low, two.interval.high) == pytest.approx((low, high))
    assert two.is_significant
    assert report.metric == "test/accuracy"


def test_runs_that_are_not_done_are_counted_and_not_dropped(tmp_path, capsys):
    write_two(tmp_path)
    write_run(tmp_path, {"optimizer.lr": 0.1}, 8, None, state="diverged")
    write_run(tmp_path, {"optimizer.lr": 10}, 0, None, state="failed")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "status.json").write_text("[]")
    out = printed(capsys, tmp_path)
    assert re.search(r"optimizer.lr=0.1 +7 +1 diverged", out)
    assert re.search(r"optimizer.lr=10 +0 +1 failed", out)
    assert "1 damaged" in out
    assert "compute: 17 runs" in out


def test_few_seeds_say_what_they_cannot_show(tmp_path, capsys):
    for value in (1, 2):
        for seed in range(3):
            write_run(tmp_path, {"optimizer.lr": value}, seed, {"accuracy": 0.5 * value + 0.01 * seed})
    out = printed(capsys, tmp_path)
    assert "with 3 paired seeds no difference can reach p < 0.05; 6 can" in out


def test_the_reported_run_is_chosen_by_validation(tmp_path, capsys):
    chosen = write_run(tmp_path, {"optimizer.lr": 1}, 0, {"accuracy": 0.8})
    lucky = write_run(tmp_path, {"optimizer.lr": 2}, 0, {"accuracy": 0.5})
    for directory, scores in ((chosen, (0.8, 0.6)), (lucky, (0.7, 0.99))):
        results = dict(zip(("val/accuracy", "test/accuracy"), scores, strict=True))
        (directory / "results.json").write_text(json.dumps(results))
    assert "best on validation: optimizer.lr=1 seed=0" in printed(capsys, tmp_path)


def test_other_keys_pair_the_runs_where_one_is_compared(tmp_path):
    for model, gain in (("mlp", 0.0), ("cnn", 0.1)):
        for lr in (0.1, 0.01):
            for seed in range(3):
                write_run(tmp_path, {"model": model, "optimizer.lr": lr}, seed, {"accuracy": 0.5 + gain + lr})
    report = report_of(tmp_path, by=["model"])
    assert [one.label for one in report.conditions] == ["model=mlp", "model=cnn"]
    two = report.conditions[1].comparison
    assert (two.count, two.difference) == (6, pytest.approx(0.1))


def test_runs_without_a_shared_seed_are_compared_as_groups(tmp_path):
    for seed, score in enumerate(GOOD):
        write_run(tmp_path, {"optimizer.lr": 1}, seed, {"accuracy": score})
    for seed, score in enumerate(BAD):
        write_run(tmp_path, {"optimizer.lr": 2}, 100 + seed, {"accuracy": score})
    report = report_of(tmp_path)
    two = report.conditions[1].comparison
    assert not two.paired
    assert two.p == pytest.approx(stats.ttest_ind(BAD, GOOD, equal_var=False).pvalue)
    assert any("Welch" in note for note in report.notes)


def test_folds_get_the_corrected_test(tmp_path):
    for lr in (1, 2):
        for fold in range(5):
            score = {"accuracy": 0.5 + 0.1 * lr + 0.01 * fold * lr}
            write_run(tmp_path, {"optimizer.lr": lr, "data.fold": fold}, 0, score)
    report = report_of(tmp_path, pair=["data.fold"])
    assert report.conditions[1].comparison.interval.method == "corrected resampled t"


def test_tasks_are_summed_up(tmp_path, capsys):
    for model, gain in (("mlp", 0.0), ("cnn", 0.2)):
        for data in ("digits", "cifar10"):
            for seed in range(4):
                write_run(tmp_path, {"model": model, "data": data}, seed, {"accuracy": 0.5 + gain + 0.01 * seed})
    out = printed(capsys, tmp_path, "--tasks", "data", "--baseline", "model=mlp data=digits")
    row = next(line.split() for line in out.splitlines() if re.match(r"model=cnn +4 ", line))
    assert float(row[2]) == pytest.approx(0.715)  # the middle half of 0.70 to 0.73, twice
    assert row[6] == "1.0000"
    with pytest.raises(ConfigError, match=r"do not differ in optimizer"):
        main([str(tmp_path), "--tasks", "optimizer"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "test/acuracy"], "did you mean 'test/accuracy'"),
        (["--by", "optimizer.lrr"], "did you mean 'optimizer.lr'"),
        (["--baseline", "optimizer.lr=7"], "no condition is"),
        (["--to", "pdf"], "no format pdf; there is: md, csv, tex, html"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(tmp_path, arguments, message):
    write_two(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        main([str(tmp_path), *arguments])


def test_no_runs_and_no_folder(tmp_path):
    with pytest.raises(ConfigError, match="no runs in"):
        main([str(tmp_path)])
    with pytest.raises(ConfigError, match="no folder"):
        main([str(tmp_path / "nothing")])


HOSTILE = "</script><script>alert(1)</script>\"'&<img src=x onerror=alert(1)>\x1b[31m"


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.handlers = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_hostile_values_are_text_in_every_format(tmp_path, capsys):
    for value in (HOSTILE, "=1+1", "a|b", "50%_&#"):
        for seed in range(2):
            write_run(tmp_path / "runs", {"optimizer.name": value}, seed, {"accuracy": 0.5})
    out = printed(capsys, tmp_path / "runs", "--to", "md,csv,tex,html", "--out", tmp_path / "out")
    assert "\x1b" not in out
    texts = {name: (tmp_path / "out" / f"report.{name}").read_text() for name in ("md", "csv", "tex", "html")}
    tags = Tags()
    tags.feed(texts["html"])
    assert tags.tags.count("script") == 1
    assert "img" not in tags.tags
    assert not tags.handlers
    assert "\x1b" not in "".join(texts.values())
    assert not re.search(r"<img|<script", texts["md"])
    rows = list(csv.reader(io.StringIO(texts["csv"])))
    assert any("'=1+1" in row for row in rows)
    assert r"50\%\_\&\#" in texts["tex"]
    assert "default-src 'none'" in texts["html"]
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", texts["html"])


def test_the_checklist_answers_from_the_records(tmp_path, capsys):
    write_two(tmp_path)
    out = printed(capsys, tmp_path, "--checklist")
    for words in (
        "runs: 14",
        "seeds: 0, 1, 2",
        "tried: optimizer.lr: ",
        "chosen by: val/accuracy (max)",
        "compute: 14",
    ):
        assert words in out


@pytest.mark.slow
def test_a_thousand_runs_make_a_page_of_five_megabytes_without_torch(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(1000):
        lr, width = float(10 ** rng.uniform(-4, 0)), int(rng.choice([8, 16, 32]))
        values = {"optimizer.lr": lr, "model.width": width}
        write_run(tmp_path / "runs", values, number, {"accuracy": float(rng.uniform())}, curve=20)
    code = (
        "import sys; from lab.cli.report import main; "
        f"main([{str(tmp_path / 'runs')!r}, '--to', 'html', '--out', {str(tmp_path)!r}]); "
        "assert 'torch' not in sys.modules"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.perf_counter() - start < 60  # 10 s on a quiet machine
    assert (tmp_path / "report.html").stat().st_size < 5_000_000


def test_kept_translations_are_compared_sentence_by_sentence(tmp_path):
    from lab.report.sentences import compare_translations

    words = ["a", "man", "in", "a", "red", "hat", "walks", "over", "the", "old", "bridge", "with", "two", "dogs"]
    draw = np.random.default_rng(0)
    references = [" ".join(draw.permutation(words)[:9]) for _ in range(120)]
    for name, kept in (("good", 8), ("same", 8), ("bad", 5)):
        for seed in (0, 1):
            run = write_run(tmp_path / "runs", {"model": name}, seed, {"bleu": kept})
            rows = [
                {"source": "x", "reference": text, "translation": " ".join(text.split()[:kept] + ["x"] * (9 - kept))}
                for text in references
            ]
            (run / "test_translations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs, _ = read_runs([tmp_path / "runs"])
    report = make_report(runs, "test/bleu", "max", baseline="model=good")
    lines = [note for note in report.notes if "paired bootstrap over 120 sentences" in note]
    assert len(lines) == 4
    assert all(line.endswith("p = 0.001") for line in lines if line.startswith("model=bad"))
    assert all("+0.00" in line for line in lines if line.startswith("model=same"))
    by_name = {(run.value("model"), run.value("seed")): run for run in runs}
    difference, p, count = compare_translations("bleu", by_name["good", "0"], by_name["bad", "0"])
    assert difference < -10
    assert (p, count) == (pytest.approx(0.001, abs=1e-4), 120)
    (by_name["bad", "0"].directory / "test_translations.jsonl").write_text("no json")
    assert compare_translations("bleu", by_name["good", "0"], by_name["bad", "0"]) is None
    assert not [note for note in make_report(runs, "val/bleu", "max").notes if "bootstrap" in note]
