"""Whether a higher or a lower score is better, according to its name. Does not import torch."""

import re
from collections.abc import Mapping

from lab.metrics.names import without_split

HIGHER = {"accuracy", "acc", "precision", "recall", "f1", "auc", "auroc", "ap", "map", "r2"}
HIGHER |= {"iou", "miou", "dice", "jaccard", "bleu", "rouge", "psnr", "ssim", "mcc", "kappa", "ndcg", "mrr"}
LOWER = {"loss", "error", "mse", "mae", "rmse", "mape", "nll", "crossentropy", "perplexity", "ppl"}
LOWER |= {"wer", "cer", "brier", "ece", "fid", "logloss"}
NEGATIONS = {"neg", "negative", "negated", "minus", "inverse"}


def find_direction(metric: str, mode: str | None, monitors: Mapping[str, str]) -> str | None:
    """`max` or `min`, the better end of a metric, whatever its split: the one that was asked for, that of the monitored
    score of this name, or the usual one; None if none tells.

    mode: what was asked for, or None.  monitors: direction of each monitored score, by its full name.
    """
    name = without_split(metric)
    known = {without_split(monitor): direction for monitor, direction in monitors.items()}
    return mode or known.get(name) or usual_direction(name)


def usual_direction(name: str) -> str | None:
    """`max` or `min`, the better end of a score according to its name without the split; None if it does not tell.

    One word of the name suffices: `rmse` in `rmse_cm`. The score of a class has the direction of the overall score:
    `accuracy/cat` has that of `accuracy`. A name with words of both directions, or with a negation, does not tell.
    """
    overall = name.partition("/")[0].lower().replace("-", "_").replace("cross_entropy", "crossentropy")
    words = set(re.split(r"[^a-z0-9]+", overall))
    words |= {word.rstrip("0123456789") for word in words}  # map50, rouge2
    higher = bool(words & HIGHER) or re.fullmatch(r"top[0-9]+", overall) is not None
    lower = bool(words & LOWER)
    if higher == lower or words & NEGATIONS:
        return None
    return "max" if higher else "min"
