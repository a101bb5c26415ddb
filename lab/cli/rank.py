"""lab rank: which pretrained model to start from, scored on a sample of the target data before any fine-tuning."""

import argparse
import json
import math
import sys
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lab.cli.output import align_columns
from lab.config.overrides import swept_keys
from lab.config.sweep_grid import zip_axes
from lab.errors import EXIT_FAILED, EXIT_INTERRUPTED, ConfigError
from lab.hydra_app.app import HydraApp, run_app
from lab.model_selection.candidates import Candidate, make_candidates, sort_by_size
from lab.model_selection.finetuned_results import FINETUNED_METRIC, attach_finetuned
from lab.model_selection.ranking import (
    SCORE_NAMES,
    measure_agreement,
    rank_candidates,
    read_sample,
    score_candidate,
)
from lab.text import format_si

if TYPE_CHECKING:
    from lab.hydra_app.planner import SweepPlanner

FEWEST_CANDIDATES = 3  # fine-tuned candidates; with fewer, agreement of two orders means nothing
Ranking = Sequence[tuple[Candidate, float | None]]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "lab rank",
        usage="lab rank data=... model=a,b,c [overrides] [--zip] [--examples N] [--json]",
        description="Score pretrained models on a sample of the training data, before any fine-tuning; best first.",
        epilog="The models are given as in a sweep: lab rank data=cifar10 model=resnet20 model.weights=a.th,b.th. "
        "Higher is better for all scores: LEEP, H-score, LogME (nats), and the accuracies of nearest neighbours and of "
        "a linear probe.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--zip", action="store_true", help="take the values of several keys together, not each with all"
    )
    parser.add_argument(
        "--examples", type=int, default=1000, metavar="N", help="number of training examples to score on (1000)"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, with the seconds of each score")
    options, overrides = parser.parse_known_args(arguments)
    if options.examples < 2:
        parser.error(f"--examples={options.examples} is not a number from 2 on")
    return run_app(overrides, HydraApp("rank", run=None, sweep=partial(rank_models, options)))


def rank_models(options: argparse.Namespace, planner: "SweepPlanner", arguments: Sequence[str]) -> int:
    """Score the models that a sweep's arguments ask for, and print their ranking. Gives the exit code."""
    overrides = zip_axes(arguments, planner.loader) if options.zip else planner.expand(arguments)
    composed = planner.compose_jobs(list(enumerate(overrides)))
    candidates = sort_by_size(make_candidates(list(composed.values())))
    config = candidates[0].composed.resolved
    sample, hardware = read_sample(config, options.examples)
    code = score_candidates(candidates, sample, hardware, planner.app.with_traceback)
    outputs = Path(config["paths"]["outputs"])
    attach_finetuned(candidates, outputs, planner.app.identify)
    facts = {
        "data": candidates[0].composed.choices.get("data"),
        "examples": len(sample.labels),
        "classes": len(set(sample.labels.tolist())),
        "of_classes": config["data"].get("num_classes"),
        "seed": config["seed"],
        "outputs": str(outputs),
    }
    ranking = rank_candidates(candidates)
    taus = measure_agreement(ranking)
    if options.json:
        print(json.dumps(ranking_json(ranking, taus, facts), indent=2))
    else:
        print(format_ranking(ranking, taus, facts))
    for candidate in candidates:
        if candidate.error:
            print(f"lab: {candidate.name}: {candidate.error}", file=sys.stderr)
    if code == EXIT_FAILED and not options.zip and len(swept_keys(overrides)) > 1:
        print("lab: --zip takes the values of several keys together, instead of each with all", file=sys.stderr)
    return code


def score_candidates(candidates: Sequence[Candidate], sample: Any, hardware: Any, with_traceback: bool) -> int:
    """Score the candidates one after the other and show the scores as they come. A candidate that fails keeps its error
    and does not stop the others. Gives the exit code."""
    console = Console(stderr=True, highlight=False)
    current = ""
    with Live(
        get_renderable=lambda: Text(f"{ranking_table([(candidate, None) for candidate in candidates])}\n{current}"),
        console=console,
        transient=True,
        auto_refresh=console.is_terminal,
    ) as live:
        for number, candidate in enumerate(candidates, start=1):
            try:
                for step in score_candidate(candidate, sample, hardware):
                    current = f"{number} of {len(candidates)}: {candidate.name}: {step}"
                    if console.is_terminal:
                        live.refresh()
            except KeyboardInterrupt:
                for remaining in candidates[number - 1 :]:
                    remaining.error = "interrupted"
                return EXIT_INTERRUPTED
            except Exception as error:
                candidate.error = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
                if with_traceback:
                    traceback.print_exception(error)
    return EXIT_FAILED if any(candidate.error for candidate in candidates) else 0


def ranking_table(ranking: Ranking, taus: Mapping[str, tuple[float, int]] = {}) -> str:
    """The candidates in this order; a last row has how far each column agrees with fine-tuning.

    taus: Kendall's tau with the fine-tuned results, and its number of candidates, by column; empty: no such row.
    """
    tuned = ["tuned"] if any(candidate.tuned is not None for candidate, _ in ranking) else []
    lines = [["rank", "params", *SCORE_NAMES, "s", *tuned, "candidate"]]
    for candidate, rank in ranking:
        size = "-" if candidate.parameters is None else format_si(candidate.parameters).replace(" ", "")
        scores = [format_fixed(candidate.scores.get(name), 3) for name in SCORE_NAMES]
        took = format_fixed(sum(candidate.seconds.values()) or None, 1)
        accuracy = [format_fixed(candidate.tuned, 4)] if tuned else []
        lines.append([format_fixed(rank, 1), size, *scores, took, *accuracy, candidate.name])
    if taus:
        values = {name: format_fixed(None if math.isnan(tau) else tau, 2) for name, (tau, _) in taus.items()}
        leep_count = f", LEEP n={taus['LEEP'][1]}" if "LEEP" in taus and taus["LEEP"][1] != taus["rank"][1] else ""
        label = f"(tau with tuned, n={taus['rank'][1]}{leep_count})"
        lines.append([values["rank"], "", *(values.get(name, "-") for name in SCORE_NAMES), "", "", label])
    return align_columns(lines)


def format_fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def format_ranking(ranking: Ranking, taus: Mapping[str, tuple[float, int]], facts: Mapping[str, Any]) -> str:
    """All that is printed: the sample, the table, and the fine-tuning runs behind the column `tuned`."""
    runs = sum(candidate.runs for candidate, _ in ranking)
    num_tuned = sum(candidate.tuned is not None for candidate, _ in ranking)
    lacks_classes = facts["of_classes"] not in (None, facts["classes"])
    classes = f"{facts['classes']} of {facts['of_classes']} classes" if lacks_classes else f"{facts['classes']} classes"
    lines = [
        f"{facts['examples']} training examples of {facts['data']}, {classes}, seed {facts['seed']}; best first "
        "by the mean of its ranks",
        ranking_table(ranking, taus if num_tuned >= FEWEST_CANDIDATES else {}),
    ]
    if untrained := [candidate.name for candidate, _ in ranking if candidate.pretrained is False]:
        lines.append(f"without pretrained weights: {', '.join(untrained)}")
    if not runs:
        return "\n".join([*lines, f"no fine-tuning runs of these in {facts['outputs']}"])
    source = f"{runs} fine-tuning {'run' if runs == 1 else 'runs'} in {facts['outputs']}"
    lines.append(f"tuned: {FINETUNED_METRIC} of the best recipe, the mean over its seeds; {source}")
    if num_tuned < FEWEST_CANDIDATES:
        lines.append(
            f"they are of {num_tuned} of the candidates, too few to tell whether the scores agree; {FEWEST_CANDIDATES} "
            "would do"
        )
    else:
        lines.append("tau: Kendall's, weighted towards the best; 1 where the order is that of fine-tuning")
    return "\n".join(lines)


def ranking_json(ranking: Ranking, taus: Mapping[str, tuple[float, int]], facts: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        {
            "candidate": candidate.name,
            "overrides": list(candidate.composed.overrides),
            "parameters": candidate.parameters,
            "pretrained": candidate.pretrained,
            "mean_rank": rank,
            "scores": candidate.scores,
            "seconds": candidate.seconds,
            "fine_tuned": None
            if candidate.tuned is None
            else {FINETUNED_METRIC: candidate.tuned, "runs": candidate.runs},
            "error": candidate.error,
        }
        for candidate, rank in ranking
    ]
    agreement = {name: {"tau": None if math.isnan(tau) else tau, "n": n} for name, (tau, n) in taus.items()}
    return {**facts, "candidates": rows, "agreement": agreement}
