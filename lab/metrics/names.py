"""The grammar of metric names: `split/name`, and `split/name/class` for one class."""


def is_overall(metric: str) -> bool:
    """Whether a metric is of its whole split: `test/accuracy` is, `test/accuracy/cat` is of one class."""
    return metric.count("/") == 1
