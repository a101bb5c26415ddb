"""The grammar of metric names, `split/name` and `split/name/class`."""

import subprocess
import sys

from lab.metrics.names import add_split, is_metric, is_overall, split_of, with_split, without_split


def test_a_metric_covers_its_whole_split_or_one_class_of_it():
    assert is_overall("test/accuracy")
    assert not is_overall("test/accuracy/cat")
    assert not is_overall("step")


def test_the_keys_beside_the_metrics_of_a_line_are_no_metrics():
    line = {"step": 10, "epoch": 0.5, "train/loss": 2.3, "val/accuracy/cat": 0.5}
    assert [name for name in line if is_metric(name)] == ["train/loss", "val/accuracy/cat"]


def test_a_full_name_comes_apart_into_its_split_and_the_rest_and_goes_together_again():
    for metric in ("val/accuracy", "test/accuracy/cat", "hardware/examples_per_second"):
        assert add_split(without_split(metric), split_of(metric)) == metric
    assert (split_of("test/accuracy/cat"), without_split("test/accuracy/cat")) == ("test", "accuracy/cat")


def test_a_name_without_a_slash_has_no_split():
    assert split_of("step") == ""
    assert without_split("step") == "step"


def test_the_same_metric_of_another_split():
    assert with_split("val/accuracy", "gap") == "gap/accuracy"
    assert with_split("val/accuracy/val", "test") == "test/accuracy/val"


def test_the_grammar_costs_no_torch():
    code = "import sys, lab.metrics.names; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
