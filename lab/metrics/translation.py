"""BLEU and chrF by sacreBLEU (Post 2018, arXiv:1804.08771)."""

from collections.abc import Sequence
from typing import Any


def score_translations(
    translations: Sequence[str], references: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """bleu (Papineni et al. 2002) and chrf (Popović 2015) of a corpus, from 0 to 100, and the signature of each.

    translations, references: detokenised texts.  Raises ImportError without sacreBLEU.
    """
    metrics: dict[str, Any] = {"bleu": load_sacrebleu().BLEU(), "chrf": load_sacrebleu().CHRF()}
    scores = {
        name: float(metric.corpus_score(list(translations), [list(references)]).score)
        for name, metric in metrics.items()
    }
    return scores, {name: str(metric.get_signature()) for name, metric in metrics.items()}


def load_sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ModuleNotFoundError as error:
        raise ImportError("BLEU needs sacrebleu: pip install 'lab[text]'") from error
    return metrics
