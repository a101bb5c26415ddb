"""Whether a higher or a lower score is better, according to its name. Does not import torch."""

import re

HIGHER = {"accuracy", "acc", "precision", "recall", "f1", "auc", "auroc", "ap", "map", "r2"}
HIGHER |= {"iou", "miou", "dice", "jaccard", "bleu", "rouge", "psnr", "ssim", "mcc", "kappa", "ndcg", "mrr"}
LOWER = {"loss", "error", "mse", "mae", "rmse", "mape", "nll", "crossentropy", "perplexity", "ppl"}
LOWER |= {"wer", "cer", "brier", "ece", "fid", "logloss"}
NEGATIONS = {"neg", "negative", "negated", "minus", "inverse"}


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
