"""The grammar of metric names: `split/name`, and `split/name/class` for one class.

Does not import torch, so that commands that only read runs stay fast.
"""

from collections.abc import Container


def is_metric(name: str) -> bool:
    """Whether a key names a metric: `train/loss` does; `step` and `epoch`, which are logged beside metrics, do not."""
    return "/" in name


def is_overall(metric: str) -> bool:
    """Whether a metric covers its whole split: `test/accuracy` does, `test/accuracy/cat` covers one class."""
    return metric.count("/") == 1


def split_of(metric: str) -> str:
    """The split of a full name, `test` of `test/accuracy/cat`; empty where the name has none, such as `step`."""
    split, slash, _ = metric.partition("/")
    return split if slash else ""


def without_split(metric: str) -> str:
    """A full name without its split: `accuracy/cat` of `test/accuracy/cat`. A name without a slash stays as it is."""
    return metric.partition("/")[2] or metric


def with_split(metric: str, split: str) -> str:
    """The same metric of another split: `gap/accuracy` of `val/accuracy` and `gap`."""
    return add_split(without_split(metric), split)


def on_test(metric: str, names: Container[str]) -> str:
    """The same metric of the test set where `names` has it, else the metric itself."""
    test = with_split(metric, "test")
    return test if test in names else metric


def add_split(name: str, split: str) -> str:
    """The full name of a score that has no split yet: `test/accuracy/cat` of `accuracy/cat` and `test`."""
    return f"{split}/{name}"
