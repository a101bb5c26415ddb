"""Which hyper-parameters matter: PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255), by Optuna."""

from collections.abc import Mapping, Sequence
from typing import Any

FEWEST_RUNS = 8


def hyper_parameter_importance(
    points: Sequence[Mapping[str, Any]], scores: Sequence[float], mode: str
) -> dict[str, float] | None:
    """The share of each key in what makes a run belong to the best tenth, the largest first, in sum 1. None with fewer
    than 8 runs, without a key that varies, or where Optuna is not installed.

    points: values of the keys of each run; all have the same keys.  mode: `max` or `min`, the better end of the score.
    """
    keys = [key for key in points[0] if len({str(point[key]) for point in points}) > 1] if points else []
    if len(points) < FEWEST_RUNS or not keys or len(set(scores)) < 2:
        return None
    try:
        import optuna
    except ModuleNotFoundError:
        return None
    if len(keys) == 1:
        return {keys[0]: 1.0}
    axes = {key: axis_of([point[key] for point in points], optuna.distributions) for key in keys}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    study.add_trials(
        [
            optuna.create_trial(
                params={key: convert(point[key]) for key, (_, convert) in axes.items()},
                distributions={key: axis for key, (axis, _) in axes.items()},
                value=score,
            )
            for point, score in zip(points, scores, strict=True)
        ]
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(found[key]) for key in found}


def axis_of(values: Sequence[Any], distributions: Any) -> tuple[Any, Any]:
    """Optuna's distribution of a key, and the function that makes its values of ours. Numbers of more than two values
    are an interval, in logarithms where they span a factor of ten; all else is a choice."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values) and len(set(numbers)) > 2:
        low, high = float(min(numbers)), float(max(numbers))
        return distributions.FloatDistribution(low, high, log=low > 0 and high / low >= 10), float
    return distributions.CategoricalDistribution(sorted({str(value) for value in values})), str
