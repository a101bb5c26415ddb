"""Whether a higher or a lower score is better, as far as its name tells. Free of torch."""

import re

HIGHER = {"accuracy", "acc", "precision", "recall", "f1", "auc", "auroc", "ap", "map", "r2"}
HIGHER |= {"iou", "miou", "dice", "jaccard", "bleu", "rouge", "psnr", "ssim"}
LOWER = {"loss", "error", "mse", "mae", "rmse", "mape", "nll", "crossentropy", "perplexity", "ppl"}
LOWER |= {"wer", "cer", "brier", "ece", "fid"}
NEGATIONS = {"neg", "negative", "negated", "minus", "inverse"}


def usual_direction(name: str) -> str | None:
    """`max` or `min` where the name of a score, without its split, says which is better; None where it does not.

    A name says so by one of its words, `rmse_cm` by `rmse`, and the score of a class by the overall score, as
    `accuracy/cat` by `accuracy`. A name with words of both directions, or with a negation, says nothing.
    """
    overall = name.partition("/")[0].lower().replace("cross_entropy", "crossentropy")
    words = set(re.split(r"[^a-z0-9]+", overall))
    words |= {word.rstrip("0123456789") for word in words}  # map50, rouge2
    higher = bool(words & HIGHER) or re.fullmatch(r"top[0-9]+", overall) is not None
    lower = bool(words & LOWER)
    if higher == lower or words & NEGATIONS:
        return None
    return "max" if higher else "min"
