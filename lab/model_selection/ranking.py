"""The ranking of models to start from, by scores on a sample of the data."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from lab.errors import ConfigError
from lab.model_selection.candidates import Candidate

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lab.hardware import Hardware
    from lab.models.origin import SourceHead
    from lab.run import Batch

SCORE_NAMES = ("LogME", "LEEP", "H-score", "kNN", "probe")  # in the order in which they are shown


class Sample(NamedTuple):
    """Training examples without augmentation.

    inputs: function that yields the batches of inputs, as the models take them.  labels: integers (N,).
    """

    inputs: "Callable[[], Iterator[Any]]"
    labels: "np.ndarray"


class RankedCandidate(NamedTuple):
    """mean_rank: mean of the candidate's ranks over the scores, 1 is best; None if it could not be scored."""

    candidate: Candidate
    mean_rank: float | None


class Agreement(NamedTuple):
    """tau: weighted Kendall's tau of a score with the results of fine-tuning.  n: number of candidates with both."""

    tau: float
    n: int


def read_sample(config: Mapping[str, Any], examples: int) -> "tuple[Sample, Hardware]":
    """The first `examples` training examples in the seed's order, at most one epoch, and the hardware to score on.

    Raises ConfigError for data that cannot be read, or whose labels are not classes.
    """
    import numpy as np

    from lab.assembly.blame import blame
    from lab.assembly.build import build_data, instantiate, read_settings
    from lab.nest import map_tensors

    settings = read_settings(config)
    hardware: Hardware = replace(instantiate(config, "hardware"), compile=False, channels_last=False)
    with blame("hardware"):
        hardware.setup()
    data = build_data(config, settings, hardware)
    plain_batches = getattr(data, "plain", data.batches)
    batches: list[tuple[Any, Tensor]] = []
    remaining = examples
    for batch in islice(plain_batches(0), getattr(data, "steps_per_epoch", None)):
        with blame("data"):
            inputs, labels = inputs_and_labels(batch)
        batches.append((map_tensors(inputs, itemgetter(slice(remaining))), labels[:remaining]))
        remaining -= len(labels)
        if remaining <= 0:
            break
    if not batches:
        raise ConfigError("data: the data set has no training batch")
    prepare = getattr(data, "prepare", lambda batch: batch)

    def prepared_inputs() -> "Iterator[Any]":
        for batch in batches:
            yield prepare(hardware.move(batch))[0]

    return Sample(prepared_inputs, np.concatenate([labels.cpu().numpy() for _, labels in batches])), hardware


def is_class(labels: "Tensor") -> bool:
    return labels.dim() == 1 and not labels.is_floating_point()


def inputs_and_labels(batch: "Batch") -> "tuple[Any, Tensor]":
    """The inputs and labels of a batch. Raises ValueError unless the labels are classes, as the scores require."""
    import torch

    from lab.nest import iterate_leaves

    is_pair = isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], torch.Tensor)
    parts = list(iterate_leaves(batch[0])) if is_pair else []
    if not parts or not all(isinstance(part, torch.Tensor) for part in parts) or not is_class(batch[1]):
        raise ValueError(
            "the scores need classes; batches must be pairs of inputs, tensors (B, ...), and integer labels (B,)"
        )
    return batch[0], batch[1]


def score_candidate(candidate: Candidate, sample: Sample, hardware: "Hardware") -> Iterator[str]:
    """Build the candidate's model, compute its features once, and set the candidate's scores. Yields the name of
    each step before it begins.

    Raises ConfigError if the model cannot be built or scored.
    """
    from lab.assembly.blame import blame
    from lab.model_selection.h_score import h_score
    from lab.model_selection.knn import knn_accuracy
    from lab.model_selection.linear_probe import linear_probe_accuracy
    from lab.model_selection.logme import logme

    yield "features"
    started = time.perf_counter()
    features, source_head = extract_features(candidate, sample, hardware)
    candidate.seconds["features"] = time.perf_counter() - started
    # cheapest first
    scores: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
        "LEEP": partial(score_source_head, source_head),
        "H-score": h_score,
        "LogME": logme,
        "kNN": knn_accuracy,
        "probe": linear_probe_accuracy,
    }
    for name, score in scores.items():
        yield name
        started = time.perf_counter()
        with blame(name):
            candidate.scores[name] = score(features, sample.labels)
        candidate.seconds[name] = time.perf_counter() - started


def extract_features(
    candidate: Candidate, sample: Sample, hardware: "Hardware"
) -> "tuple[np.ndarray, SourceHead | None]":
    """The checked features of the sample, and the source head of the weights. The model itself is released."""
    from lab.assembly.blame import blame
    from lab.assembly.build import create_model, read_settings
    from lab.model_selection.features import check_features, head_inputs
    from lab.models.origin import origin_of

    config = candidate.composed.resolved
    model = create_model(config, read_settings(config))
    origin = origin_of(model)
    candidate.parameters = sum(p.numel() for p in model.parameters())
    candidate.pretrained = origin is not None
    with hardware.autocast(), blame("model"):
        features = head_inputs(hardware.place(model), sample.inputs())
        check_features(features, sample.labels)
    return features, origin.source_head if origin else None


def score_source_head(head: "SourceHead | None", features: "np.ndarray", labels: "np.ndarray") -> float | None:
    """LEEP of the source head; None if there is no source head, or it has another number of features."""
    from lab.model_selection.leep import leep, source_probabilities

    if head is None or head.weight[0].numel() != features.shape[1]:
        return None
    weight = head.weight.detach().double().cpu().numpy()
    bias = None if head.bias is None else head.bias.detach().double().cpu().numpy()
    return leep(source_probabilities(features, weight, bias), labels)


def rank_candidates(candidates: Sequence[Candidate]) -> list[RankedCandidate]:
    """The candidates by the mean of their ranks, best first; those that could not be scored come last.

    Only scores that every scored candidate has are ranked. LEEP, for instance, needs a source head in each.
    """
    from lab.model_selection.agreement import mean_ranks

    scored = [c for c in candidates if not c.error and len(c.scores) == len(SCORE_NAMES)]
    columns = [[candidate.scores[name] for candidate in scored] for name in SCORE_NAMES]
    complete = [[value for value in column if value is not None] for column in columns if None not in column]
    ranked = list(map(RankedCandidate, scored, mean_ranks(complete) if scored else []))
    # candidates with equal means are sorted by LogME
    ranked.sort(key=lambda ranked: (ranked.mean_rank, -(ranked.candidate.scores["LogME"] or 0.0)))
    return [*ranked, *(RankedCandidate(candidate, None) for candidate in candidates if candidate not in scored)]


def measure_agreement(ranking: Sequence[RankedCandidate]) -> dict[str, Agreement]:
    """The agreement of each score, and of the mean rank as `rank`, with the results of fine-tuning.

    A score that fewer than two fine-tuned candidates have is left out.
    """
    from lab.model_selection.agreement import weighted_tau

    agreements = {}
    for name in ("rank", *SCORE_NAMES):
        pairs = [
            (value, candidate.tuned)
            for candidate, mean_rank in ranking
            if mean_rank is not None and candidate.tuned is not None
            if (value := -mean_rank if name == "rank" else candidate.scores[name]) is not None
        ]
        if len(pairs) > 1:
            scores, results = zip(*pairs, strict=True)
            agreements[name] = Agreement(weighted_tau(scores, results), len(pairs))
    return agreements
