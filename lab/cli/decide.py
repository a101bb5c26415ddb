"""lab decide: is A better than B? Runs pairs of seeds until it is known."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lab.cli.arguments import command_parser
from lab.cli.output import align_columns
from lab.cli.report import report_lines
from lab.cli.run_sweep import exit_code, preflight_with_progress, report_stop, run_with_view
from lab.config.outputs import split_outputs
from lab.config.overrides import override_key
from lab.config.settings import Policy
from lab.config.studies import merge_overrides
from lab.errors import ConfigError
from lab.hydra_app.app import HydraApp, run_app
from lab.hydra_app.planner import SweepPlanner
from lab.ledger.listing import find_run
from lab.ledger.saved_run import SavedRun
from lab.report.collect import read_runs
from lab.report.report import make_report
from lab.report.tables import show_signed
from lab.statistics.sequential import Decision, SequentialTest
from lab.sweep.controller import split_pending
from lab.sweep.decision import DecidingJobs, Question
from lab.sweep.plan import Plan
from lab.sweep.pool import make_pool
from lab.sweep.run_plan import check_same_sweep, record_plan
from lab.train.stop import StopSignal

EPILOG = """A and B are overrides as for lab train, in quotes, or runs; what follows is common to both:

  lab decide "optimizer.lr=0.01" "optimizer.lr=0.003" model=mlp epochs=3
  lab decide "augment=mixup" "augment=none" model=resnet20 data=cifar10 --at-least 0.005
  lab decide --race "optimizer.lr=0.1" "optimizer.lr=0.03" "optimizer.lr=0.01" model=mlp

The answer is valid however often one looks: a sequential sign-flip test with an error-spending function, wrong in at
most 1 of 20 cases where there is no difference. It needs 8 pairs where there are 30 at most. The same command goes on
where it was stopped. A larger --up-to after UNDECIDED is a second question, with an error of its own.
"""


@dataclass
class Deciding:
    """What the command asks for.  arms: overrides of each arm."""

    question: Question
    arms: Sequence[Sequence[str]]

    def __call__(self, planner: SweepPlanner, arguments: Sequence[str]) -> int:
        """Run pairs until the question is decided, and print the answer. Gives the exit code."""
        if not planner.uses_own_launcher:
            raise ConfigError("lab decide looks after every run, with lab's own launcher; leave hydra/launcher= out")
        overrides = [
            merge_overrides(arguments, arm, [f"seed={seed}"]) for seed in self.question.seeds for arm in self.arms
        ]
        plan = planner.plan(overrides)
        if len(plan.unique_jobs) < len(plan.jobs):
            raise ConfigError("two arms are the same run; give what tells them apart, such as optimizer.lr=0.01")
        jobs = {(place % len(self.arms), place // len(self.arms)): job for place, job in enumerate(plan.jobs)}
        source = DecidingJobs(self.question, jobs)
        check_same_sweep(plan)
        policy = Policy.of(plan.jobs[0].composed.resolved)
        stop = StopSignal.with_limits(policy.time_limit)
        code = 0
        with stop.signals(keyboard=True):
            pending, outcomes = split_pending(plan)
            for job in plan.jobs:
                if job.number in outcomes:
                    source.take(job, outcomes[job.number])
            record_plan(plan)
            if pending and not source.is_decided:
                with make_pool([job.composed.resolved for job in pending], planner.launcher_options) as pool:
                    preflight_with_progress(plan, pending, pool, stop)
                    result = run_with_view(plan, len(pending), source, pool, policy, stop)
                code = report_stop(plan, result, stop)
                outcomes |= result.outcomes
        if code == 0:
            print_decision(source, plan)
        return code or exit_code(outcomes)


def main(arguments: list[str]) -> int:
    options = decide_parser().parse_intermixed_args(arguments)
    words = [options.a, options.b, *options.overrides]
    arms, common = split_arms(words, options.race, split_outputs(arguments)[0])
    fewest = SequentialTest(options.up_to).fewest if options.up_to > 0 else None
    if fewest is None:
        raise ConfigError(f"--up-to {options.up_to} pairs are too few for any answer; 6 are the least, 30 are usual")
    if options.at_least is not None and options.at_least <= 0:
        raise ConfigError(f"--at-least {options.at_least} is no difference; it takes the smallest that matters")
    question = Question(
        [" ".join(arm) for arm in arms],
        range(options.first_seed, options.first_seed + options.up_to),
        options.metric,
        options.mode,
        options.at_least,
    )
    return run_app(["-m", *common], HydraApp("decide", run=None, sweep=Deciding(question, arms)))


def decide_parser() -> argparse.ArgumentParser:
    parser = command_parser("decide", "Is A better than B? Runs pairs of seeds until it is known.", EPILOG)
    parser.add_argument("a", metavar="A", help="overrides in quotes, or a run")
    parser.add_argument("b", metavar="B", help="overrides in quotes, or a run")
    parser.add_argument("overrides", nargs="*", help="overrides common to both; with --race, quoted ones are arms too")
    parser.add_argument("--at-least", type=float, metavar="D", help="the smallest difference that matters")
    parser.add_argument("--up-to", type=int, default=30, metavar="N", help="pairs after which it stays UNDECIDED (30)")
    parser.add_argument("--metric", help="score to compare (default: the monitored one, on the test set)")
    parser.add_argument("--mode", choices=("max", "min"), help="its better end, where its name does not tell")
    parser.add_argument("--first-seed", type=int, default=0, metavar="SEED", help="the seeds go on from here (0)")
    parser.add_argument("--race", action="store_true", help="several arms; those that are beaten are dropped")
    return parser


def split_arms(words: Sequence[str], is_race: bool, outputs: Path) -> tuple[list[list[str]], list[str]]:
    """The overrides of each arm, and the common ones.

    In a race the common overrides begin where a key occurs that the first arm does not have.
    """
    count = 2
    if is_race:
        keys = {override_key(word) for word in read_arm(words[0], outputs)}
        while count < len(words) and {override_key(word) for word in read_arm(words[count], outputs)} == keys:
            count += 1
        if count < 3:
            raise ConfigError("a race takes three arms or more, each with the same keys; for two leave --race out")
    return [read_arm(word, outputs) for word in words[:count]], list(words[count:])


def read_arm(word: str, outputs: Path) -> list[str]:
    """The overrides of an arm. Raises ConfigError for what is neither overrides nor a run."""
    if "=" in word or word.startswith("~"):
        return shlex.split(word)
    directory = find_run(Path(word), outputs)
    if directory is None:
        raise ConfigError(f"{word!r} is neither overrides, such as 'optimizer.lr=0.01', nor a run of {outputs}")
    return [override for override in SavedRun(directory).manifest["overrides"] if override_key(override) != "seed"]


def print_decision(source: DecidingJobs, plan: Plan) -> None:
    """Print the runs' report, and the answer in its last line."""
    names = {
        job.identity.id: source.question.arms[arm] for (arm, _), job in source.jobs.items() if job.directory.is_dir()
    }
    directories = [job.directory for job in plan.jobs if job.directory.is_dir()]
    runs, notes = read_runs(directories)
    if source.metric and source.mode and any(run.score(source.metric) is not None for run in runs):
        report = make_report(runs, source.metric, source.mode, names=names, notes=notes)
        # its p-values hold for one look alone
        report = replace(report, baseline=None, notes=(), conditions=sorted(report.conditions, key=lambda c: c.label))
        print("\n".join(report_lines(report)))
    print("\n".join(race_lines(source) if source.is_race else decision_lines(source)))


def decision_lines(source: DecidingJobs) -> list[str]:
    a, b = source.question.arms
    differences = source.differences()
    sign = 1 if source.mode == "max" else -1
    lines = []
    if failed := sum(outcome.state != "done" for outcome in source.outcomes.values()):
        lines.append(f"{failed} runs did not end well; their seeds do not count")
    if differences:
        mean = show_signed(sign * float(np.mean(differences)))
        lines.append(f"{source.metric}: A minus B is {mean} over {len(differences)} pairs")
    answers = {
        Decision.BETTER: f"BETTER: A ({a}) is better than B ({b}), after {source.pairs} pairs",
        Decision.WORSE: f"WORSE: A ({a}) is worse than B ({b}), after {source.pairs} pairs",
        Decision.NO_DIFFERENCE: f"NO DIFFERENCE OF {source.question.margin} between A ({a}) and B ({b}), after "
        f"{source.pairs} pairs",
        Decision.UNDECIDED: f"UNDECIDED after {len(differences)} pairs; --up-to takes more",
    }
    return [*lines, answers[source.decision]]


def race_lines(source: DecidingJobs) -> list[str]:
    arms = source.question.arms
    rows = [["arm", "pairs", "result"]]
    for place, (arm, scores) in enumerate(zip(arms, source.columns(), strict=True)):
        lost = source.lost.get(place)
        rows.append(
            [arm, str(int(np.isfinite(scores).sum())), f"dropped: {arms[lost[0]]} is better" if lost else "left"]
        )
    left = [arm for place, arm in enumerate(arms) if place not in source.lost]
    answer = f"BEST: {left[0]}" if len(left) == 1 else f"UNDECIDED between {' | '.join(left)}"
    return [*align_columns(rows).splitlines(), answer]
