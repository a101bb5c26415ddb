"""Which model to start from: candidates scored on a sample of the data."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lab.config.asked import Asked
from lab.config.axes import swept_keys
from lab.config.check import check
from lab.config.errors import ConfigError
from lab.config.redact import redacted_text
from lab.names import key_and_value

SCORES = ("LEEP", "H-score", "LogME", "kNN", "probe")  # in the order of what they cost
SAME = ("seed", "data", "hardware")  # what the sample is made of and read with


@dataclass
class Candidate:
    """A model to start from.  name: how it differs from the others.  pretrained: None until it is made.  seconds: that
    each score took, and `features`.  tuned: what fine-tuning it came to (lab.study.tuned).  error: why there is none.
    """

    name: str
    asked: Asked
    parameters: int | None = None
    pretrained: bool | None = None
    scores: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tuned: float | None = None
    runs: int = 0
    error: str | None = None


class Sample(NamedTuple):
    """Training examples, not augmented.  inputs: batches as the models take them.  labels: (N,), a NumPy array."""

    inputs: Callable[[], Iterator[Any]]
    labels: Any


def candidates(asked: Sequence[Asked]) -> list[Candidate]:
    """A candidate for each model that is asked for; where only other things differ, they are one.

    Raises ConfigError with every problem of the configs, and where they are not all of one sample.
    """
    problems: dict[str, None] = {}
    for one in asked:
        try:
            check(one.config, str(one.source))
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(*problems)
    first = asked[0].config
    for name in SAME:
        if any(one.config[name] != first[name] for one in asked):
            keys = [key for key in swept_keys([one.overrides for one in asked]) if key.split(".")[0] == name] or [name]
            raise ConfigError(
                f"lab rank compares models on one sample, and {', '.join(keys)} is not the same for all of them; give "
                f"{keys[0]} one value, and a command for each"
            )
    distinct = {str(origin(one.config)): one for one in reversed(asked)}
    kept = list(reversed(distinct.values()))
    return [Candidate(name, one) for name, one in zip(names(kept), kept, strict=True)]


def origin(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's node, with the `weights` that are loaded into a model which takes none itself."""
    return {"weights": config.get("weights"), **config["model"]}


def names(asked: Sequence[Asked]) -> list[str]:
    """`resnet20 a.th`: the model, and what else differs; of a path the last part, where that tells them apart."""
    keys = [key for key in swept_keys([one.overrides for one in asked]) if key != "model"]
    found = []
    for one in asked:
        given = dict(key_and_value(redacted_text(override)) for override in one.overrides)
        shown = [worded(key, given[key].strip("'\"")) for key in keys if key in given]
        found.append([str(one.choices.get("model")), *shown])
    short = [" ".join(word if "/" not in word else Path(word).name for word in words) for words in found]
    return short if len(set(short)) == len(short) else [" ".join(words) for words in found]


def worded(key: str, value: str) -> str:
    last = key.rpartition(".")[2]
    if last == "weights" and value == "null":
        return "random"
    return value if last in ("weights", "name") else f"{key.removeprefix('model.')}={value}"


def in_order_of_size(found: Sequence[Candidate]) -> list[Candidate]:
    """The cheapest first. What cannot be counted without its weights comes last."""
    return sorted(found, key=lambda candidate: parameters_of(candidate.asked.config["model"]))


def parameters_of(model: Mapping[str, Any]) -> float:
    """Of a model's node, counted without memory for them."""
    import torch

    from lab.config.build import instantiate

    node = {key: None if key == "weights" else value for key, value in model.items()}
    try:
        with torch.device("meta"):
            return float(sum(p.numel() for p in instantiate({"model": node}, "model").parameters()))
    except (ConfigError, AttributeError):  # if the model itself is wrong, making it will say so
        return float("inf")


def read_sample(config: Mapping[str, Any], examples: int) -> tuple[Sample, Any]:
    """The first `examples` training examples in the seed's order, or all of one epoch, and the hardware to score on.

    Raises ConfigError for data that cannot be read, or that has no class for each example.
    """
    import numpy
    import torch

    from lab.config.build import attempt, build_data, instantiate
    from lab.config.settings import Settings

    settings = attempt("", partial(Settings.of, config))
    hardware = replace(instantiate(config, "hardware"), compile=False, channels_last=False)
    attempt("hardware", hardware.setup)
    data: Any = build_data(config, settings, hardware)
    plain = getattr(data, "plain", data.batches)
    batches, labels, left = [], [], examples
    for batch in islice(plain(0), getattr(data, "steps_per_epoch", None)):
        given, named = attempt("data", partial(classes_of, batch))
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


def classes_of(batch: Any) -> tuple[Any, Any]:
    """The inputs and labels of a batch."""
    import torch

    pair = isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(x, torch.Tensor) for x in batch)
    if not pair or batch[1].dim() != 1 or batch[1].is_floating_point():
        raise ValueError("the scores are of classes; batches must be pairs of inputs (B, ...) and whole numbers (B,)")
    return batch[0], batch[1]


def score(candidate: Candidate, sample: Sample, hardware: Any) -> Iterator[str]:
    """Make the candidate's model, read its features once, and put its scores on it: yields the name of what comes next.

    Raises ConfigError where the model cannot be made or scored.
    """
    from lab.config.build import attempt
    from lab.rank.h_score import h_score
    from lab.rank.knn import knn
    from lab.rank.linear_probe import linear_probe
    from lab.rank.logme import logme

    yield "features"
    started = time.perf_counter()
    features, head = features_of(candidate, sample, hardware)
    candidate.seconds["features"] = time.perf_counter() - started
    functions: dict[str, Callable[[Any, Any], float | None]] = {
        "LEEP": partial(leep_of, head),
        "H-score": h_score,
        "LogME": logme,
        "kNN": knn,
        "probe": linear_probe,
    }
    for name in SCORES:
        yield name
        started = time.perf_counter()
        candidate.scores[name] = attempt(name, partial(functions[name], features, sample.labels))
        candidate.seconds[name] = time.perf_counter() - started


def features_of(candidate: Candidate, sample: Sample, hardware: Any) -> tuple[Any, tuple[Any, Any] | None]:
    """The features of the sample, checked, and the head that the weights came with; the model itself is let go."""
    from lab.config.build import attempt, started_model
    from lab.config.settings import Settings
    from lab.rank.features import check, head_inputs

    config = candidate.asked.config
    model = started_model(config, attempt("", partial(Settings.of, config)))
    candidate.parameters = sum(p.numel() for p in model.parameters())
    candidate.pretrained = bool(vars(model).get("pretrained"))
    with hardware.autocast():
        features = attempt("model", lambda: head_inputs(hardware.place(model), sample.inputs()))
    attempt("model", partial(check, features, sample.labels))
    return features, vars(model).get("source_head")


def leep_of(head: tuple[Any, Any] | None, features: Any, labels: Any) -> float | None:
    """None where there is no source head, as (weight, bias), or it is one of other features."""
    from lab.rank.leep import leep, source_probabilities

    if head is None or head[0][0].numel() != features.shape[1]:
        return None
    weight, bias = head
    plain = None if bias is None else bias.detach().double().cpu().numpy()
    return leep(source_probabilities(features, weight.detach().double().cpu().numpy(), plain), labels)


def ranked(found: Sequence[Candidate]) -> list[tuple[Candidate, float | None]]:
    """The candidates with the mean of their ranks, best first; what could not be scored, without one, last.

    Ranks are those of the scores that all have: LEEP counts where each has a source head.
    """
    from lab.rank.agreement import mean_ranks

    whole = [candidate for candidate in found if not candidate.error and len(candidate.scores) == len(SCORES)]
    columns = [[candidate.scores[name] for candidate in whole] for name in SCORES]
    full = [[value for value in column if value is not None] for column in columns if None not in column]
    ranks = mean_ranks(full) if whole else []
    # of equal means the better LogME
    best = sorted(zip(whole, ranks, strict=True), key=lambda pair: (pair[1], -(pair[0].scores["LogME"] or 0.0)))
    return [*best, *((candidate, None) for candidate in found if candidate not in whole)]


def agreement(found: Sequence[tuple[Candidate, float | None]]) -> dict[str, tuple[float, int]]:
    """Weighted tau of each score, and of the mean rank, with what fine-tuning came to, and of how many candidates."""
    from lab.rank.agreement import weighted_tau

    taus = {}
    for name in ("rank", *SCORES):
        values = {
            candidate.name: -rank if name == "rank" else candidate.scores[name]
            for candidate, rank in found
            if rank is not None
        }
        pairs = [(values[c.name], c.tuned) for c, _ in found if c.tuned is not None and values.get(c.name) is not None]
        if len(pairs) > 1:
            taus[name] = weighted_tau(*zip(*pairs, strict=True)), len(pairs)
    return taus
