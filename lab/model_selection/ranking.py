"""Which model to start from: candidates scored on a sample of the data."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from lab.errors import ConfigError
from lab.model_selection.candidates import (
    Candidate,
)

SCORE_NAMES = ("LEEP", "H-score", "LogME", "kNN", "probe")  # in the order of what they cost


class Sample(NamedTuple):
    """Training examples, not augmented.  inputs: batches as the models take them.  labels: (N,), a NumPy array."""

    inputs: Callable[[], Iterator[Any]]
    labels: Any


def read_sample(config: Mapping[str, Any], examples: int) -> tuple[Sample, Any]:
    """The first `examples` training examples in the seed's order, or all of one epoch, and the hardware to score on.

    Raises ConfigError for data that cannot be read, or that has no class for each example.
    """
    import numpy
    import torch

    from lab.build.build import attempt, build_data, instantiate
    from lab.config.settings import Settings

    settings = attempt("", partial(Settings.of, config))
    hardware = replace(instantiate(config, "hardware"), compile=False, channels_last=False)
    attempt("hardware", hardware.setup)
    data: Any = build_data(config, settings, hardware)
    plain = getattr(data, "plain", data.batches)
    batches, labels, left = [], [], examples
    for batch in islice(plain(0), getattr(data, "steps_per_epoch", None)):
        given, named = attempt("data", partial(inputs_and_labels, batch))
        batches.append((given[:left], named[:left]))
        labels.append(named[:left].cpu().numpy())
        left -= len(named)
        if left <= 0:
            break
    if not batches:
        raise ConfigError("data: it has no training batch")
    prepare = getattr(data, "prepare", lambda batch: batch)

    def inputs() -> Iterator[torch.Tensor]:
        for batch in batches:
            yield prepare(hardware.move(batch))[0]

    return Sample(inputs, numpy.concatenate(labels)), hardware


def inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    """The inputs and labels of a batch."""
    import torch

    pair = isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(x, torch.Tensor) for x in batch)
    if not pair or batch[1].dim() != 1 or batch[1].is_floating_point():
        raise ValueError("the scores are of classes; batches must be pairs of inputs (B, ...) and whole numbers (B,)")
    return batch[0], batch[1]


def score_candidate(candidate: Candidate, sample: Sample, hardware: Any) -> Iterator[str]:
    """Make the candidate's model, read its features once, and put its scores on it: yields the name of what comes next.

    Raises ConfigError where the model cannot be made or scored.
    """
    from lab.build.build import attempt
    from lab.model_selection.h_score import h_score
    from lab.model_selection.knn import knn
    from lab.model_selection.linear_probe import linear_probe
    from lab.model_selection.logme import logme

    yield "features"
    started = time.perf_counter()
    features, head = extract_features(candidate, sample, hardware)
    candidate.seconds["features"] = time.perf_counter() - started
    functions: dict[str, Callable[[Any, Any], float | None]] = {
        "LEEP": partial(leep_from_head, head),
        "H-score": h_score,
        "LogME": logme,
        "kNN": knn,
        "probe": linear_probe,
    }
    for name in SCORE_NAMES:
        yield name
        started = time.perf_counter()
        candidate.scores[name] = attempt(name, partial(functions[name], features, sample.labels))
        candidate.seconds[name] = time.perf_counter() - started


def extract_features(candidate: Candidate, sample: Sample, hardware: Any) -> tuple[Any, tuple[Any, Any] | None]:
    """The features of the sample, checked, and the head that the weights came with; the model itself is let go."""
    from lab.build.build import attempt, create_model
    from lab.config.settings import Settings
    from lab.model_selection.features import check_features, head_inputs

    config = candidate.asked.config
    model = create_model(config, attempt("", partial(Settings.of, config)))
    candidate.parameters = sum(p.numel() for p in model.parameters())
    candidate.pretrained = bool(vars(model).get("pretrained"))
    with hardware.autocast():
        features = attempt("model", lambda: head_inputs(hardware.place(model), sample.inputs()))
    attempt("model", partial(check_features, features, sample.labels))
    return features, vars(model).get("source_head")


def leep_from_head(head: tuple[Any, Any] | None, features: Any, labels: Any) -> float | None:
    """None where there is no source head, as (weight, bias), or it is one of other features."""
    from lab.model_selection.leep import leep, source_probabilities

    if head is None or head[0][0].numel() != features.shape[1]:
        return None
    weight, bias = head
    plain = None if bias is None else bias.detach().double().cpu().numpy()
    return leep(source_probabilities(features, weight.detach().double().cpu().numpy(), plain), labels)


def rank_candidates(found: Sequence[Candidate]) -> list[tuple[Candidate, float | None]]:
    """The candidates with the mean of their ranks, best first; what could not be scored, without one, last.

    Ranks are those of the scores that all have: LEEP counts where each has a source head.
    """
    from lab.model_selection.agreement import mean_ranks

    whole = [candidate for candidate in found if not candidate.error and len(candidate.scores) == len(SCORE_NAMES)]
    columns = [[candidate.scores[name] for candidate in whole] for name in SCORE_NAMES]
    full = [[value for value in column if value is not None] for column in columns if None not in column]
    ranks = mean_ranks(full) if whole else []
    # of equal means the better LogME
    best = sorted(zip(whole, ranks, strict=True), key=lambda pair: (pair[1], -(pair[0].scores["LogME"] or 0.0)))
    return [*best, *((candidate, None) for candidate in found if candidate not in whole)]


def measure_agreement(found: Sequence[tuple[Candidate, float | None]]) -> dict[str, tuple[float, int]]:
    """Weighted tau of each score, and of the mean rank, with what fine-tuning came to, and of how many candidates."""
    from lab.model_selection.agreement import weighted_tau

    taus = {}
    for name in ("rank", *SCORE_NAMES):
        values = {
            candidate.name: -rank if name == "rank" else candidate.scores[name]
            for candidate, rank in found
            if rank is not None
        }
        pairs = [(values[c.name], c.tuned) for c, _ in found if c.tuned is not None and values.get(c.name) is not None]
        if len(pairs) > 1:
            taus[name] = weighted_tau(*zip(*pairs, strict=True)), len(pairs)
    return taus
