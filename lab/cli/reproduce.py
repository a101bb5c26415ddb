"""lab reproduce: does a paper's claim hold here? Runs what is missing and gives a verdict for each claim."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.cli.arguments import command_parser
from lab.cli.output import align_columns
from lab.cli.run_sweep import show_plan
from lab.cli.train import train_plan
from lab.config.overrides import override_key
from lab.config.studies import find_study_files, merge_overrides, read_study_file
from lab.errors import EXIT_INTERRUPTED, EXIT_NOT_REPRODUCED, EXIT_STOPPED
from lab.hydra_app.app import HydraApp, run_app
from lab.hydra_app.planner import SweepPlanner
from lab.identity.identity import is_bookkeeping
from lab.record.environment import describe_environment
from lab.record.files import write_atomically
from lab.report.claims import Claim, Paper, parse_paper
from lab.report.collect import ReportedRun, choose_metric, read_reported_run
from lab.report.lock import lock_differences, locked_arm, locked_packages, read_lock, write_lock
from lab.report.tables import ReportTable, compute_line, show_interval, show_seconds
from lab.statistics.equivalence import ClaimVerdict, Judgement
from lab.statistics.intervals import standard_deviation
from lab.sweep.plan import Job, Plan
from lab.text import markdown_cell

BEGIN, END = "<!-- lab reproduce: verdicts, written by the command -->", "<!-- lab reproduce: end -->"
MET = (ClaimVerdict.REPRODUCED, ClaimVerdict.WITHIN_NOISE)
NOT_RUN = "not run: needs a GPU"

EPILOG = """experiments/STUDY/paper.yaml holds the claims. A claim has a name, a source, and one of
  run, value, tolerance         the mean is the paper's value, within the tolerance (two one-sided tests)
  run, at_most or at_least, p   the mean is at most, or at least, this (one-sided test)
  better, than, by              paired by seed, the first is better by this much at least

REPRODUCED shown by the test; WITHIN NOISE agrees, but is not shown; NOT REPRODUCED excluded by the test;
NOT YET DECIDABLE neither. Exit code 0 where every claim is one of the first two, else 5.
"""


@dataclass
class Reproducing:
    """What the command asks for.  plan_only: whether to start nothing.  relock: whether to lock the claims anew.
    all_claims: whether to run those that need a GPU, too."""

    paper: Paper
    overrides: Sequence[str]
    plan_only: bool
    relock: bool
    all_claims: bool

    def __call__(self, planner: SweepPlanner, arguments: Sequence[str]) -> int:
        """Do the runs of all claims, print the verdicts and write them. Gives the exit code."""
        claims = [claim for claim in self.paper.claims if self.all_claims or claim.needs is None]
        wanted = [
            (claim, arm, seed)
            for seed in all_seeds(claims)  # seed by seed, so that what is stopped has whole pairs
            for claim in claims
            if seed in claim.seeds
            for arm in claim.arms
        ]
        jobs: Sequence[Job] = ()
        changes: list[str] = []
        if wanted:
            plan = planner.plan([merge_overrides(arm, arguments, [f"seed={seed}"]) for _, arm, seed in wanted])
            jobs = plan.jobs
            if self.plan_only:
                return show_plan(plan, planner.launcher_options)
            changes = self.check_lock(plan, wanted)
            code = train_plan(planner, plan)
            if code in (EXIT_INTERRUPTED, EXIT_STOPPED):
                return code
        runs = {
            (claim.name, tuple(arm), seed): read_reported_run(job.directory)
            for (claim, arm, seed), job in zip(wanted, jobs, strict=True)
        }
        verdicts = [judge_claim(claim, runs) for claim in self.paper.claims]
        self.show(verdicts, list({run.id: run for run in runs.values()}.values()), changes)
        return 0 if all(judgement and judgement.verdict in MET for judgement, _ in verdicts) else EXIT_NOT_REPRODUCED

    def check_lock(self, plan: Plan, wanted: Sequence[tuple[Claim, Sequence[str], int]]) -> list[str]:
        """What has changed since the claims were locked; the first time, and with --lock, they are locked."""
        folder = self.paper.path.parent
        arms: dict[str, Any] = {}
        for (_, arm, _), job in zip(wanted, plan.jobs, strict=True):
            arms.setdefault(" ".join(arm), locked_arm(job.composed, job.identity))
        now = {"arms": arms, "packages": locked_packages(describe_environment()["packages"])}
        before = read_lock(folder)
        if before is None or self.relock:
            try:
                write_lock(folder, now)
            except OSError as error:
                print(f"lab: cannot write the lock in {folder}: {error.strerror}")
            return []
        return lock_differences(before, now)

    def show(
        self, verdicts: Sequence[tuple[Judgement | None, int]], runs: Sequence[ReportedRun], changes: Sequence[str]
    ) -> None:
        table = verdict_table(self.paper, verdicts)
        notes = [
            *(f"since the claims were locked: {line}" for line in changes),
            *unfinished_notes(runs),
            *([compute_line(runs)] if runs else []),
        ]
        print(f"\n{self.paper.title} ({self.paper.source})")
        print(align_columns(table.lines()))
        print("\n".join(notes))
        overrides = [one for one in self.overrides if not is_bookkeeping(override_key(one))]
        command = " ".join(["lab reproduce", self.paper.path.parent.name, *overrides])
        write_verdicts(self.paper, command, table, notes, runs)


def main(arguments: list[str]) -> int:
    parser = command_parser(
        "reproduce", "Does a paper's claim hold here? Runs what is missing and gives a verdict for each claim.", EPILOG
    )
    parser.add_argument("study", help="folder of experiments/ with a paper.yaml")
    parser.add_argument("overrides", nargs="*", help="overrides of all runs, such as hydra.launcher.workers=4")
    parser.add_argument("--seeds", type=int, help="number of seeds, in place of the file's")
    parser.add_argument("--plan", action="store_true", help="show the runs, those that exist, and the costs")
    parser.add_argument(
        "--lock", action="store_true", help="lock the claims' configs, data and packages as they are now"
    )
    parser.add_argument("--all", action="store_true", help="run the claims that need a GPU, too")
    options = parser.parse_intermixed_args(arguments)
    path, content = read_study_file(find_study_files(), f"{options.study}/paper", "claims")
    task = Reproducing(
        parse_paper(path, content, options.seeds), options.overrides, options.plan, options.lock, options.all
    )
    return run_app(["-m", *options.overrides], HydraApp("reproduce", run=None, sweep=task))


def all_seeds(claims: Sequence[Claim]) -> list[int]:
    return sorted({seed for claim in claims for seed in claim.seeds})


def judge_claim(
    claim: Claim, runs: Mapping[tuple[str, tuple[str, ...], int], ReportedRun]
) -> tuple[Judgement | None, int]:
    """The verdict of a claim, None where it was not run, and its number of seeds."""
    own = [
        {seed: runs[key] for seed in claim.seeds if (key := (claim.name, tuple(arm), seed)) in runs}
        for arm in claim.arms
    ]
    done = [run for arm in own for run in arm.values() if run.state == "done"]
    if not any(own):
        return None, 0
    if not done:
        return Judgement(ClaimVerdict.NOT_YET_DECIDABLE, None), 0
    metric, mode = choose_metric(done, claim.metric, claim.mode)
    scores = [{seed: score for seed, run in arm.items() if (score := run.score(metric)) is not None} for arm in own]
    return claim.judge(scores, mode), min(map(len, scores))


def verdict_table(paper: Paper, verdicts: Sequence[tuple[Judgement | None, int]]) -> ReportTable:
    rows = []
    for claim, (judgement, seeds) in zip(paper.claims, verdicts, strict=True):
        if judgement is None:
            rows.append([claim.name, claim.source, claim.statement, None, None, None, NOT_RUN])
            continue
        more = f" ({judgement.seeds} seeds would decide)" if judgement.seeds else ""
        rows.append(
            [
                claim.name,
                claim.source,
                claim.statement,
                judgement.estimate,
                show_interval(judgement.interval),
                seeds,
                f"{judgement.verdict}{more}",
            ]
        )
    return ReportTable(["claim", "source", "claimed", "measured", "95 % CI", "seeds", "verdict"], rows)


def unfinished_notes(runs: Sequence[ReportedRun]) -> list[str]:
    states = Counter(run.state for run in runs if run.state != "done")
    return [f"{count} of {len(runs)} runs {state}: not in the means" for state, count in states.items()]


def write_verdicts(
    paper: Paper, command: str, table: ReportTable, notes: Sequence[str], runs: Sequence[ReportedRun]
) -> None:
    """Write the verdicts into the study's README.md, between markers; they are added at its end the first time."""
    path = paper.path.parent / "README.md"
    done = [run for run in runs if run.state == "done"]
    times = [run.seconds for run in done]
    spread = (
        f", {show_seconds(sum(times) / len(times))} ± {show_seconds(standard_deviation(times) or 0)} a run"
        if times
        else ""
    )
    devices = ", ".join(sorted({str(run.manifest.get("device")) for run in done})) or "nothing"
    date = f"{time.strftime('%Y-%m-%d')}, on {devices}{spread}."
    lines = [BEGIN, "", f"`{command}`, {date}", "", table.markdown()]
    block = "\n".join([*lines, *(f"- {markdown_cell(note)}" for note in notes), "", END])
    text = path.read_text(encoding="utf-8") if path.is_file() else f"# {paper.title}\n\n{paper.source}\n"
    begin, end = text.find(BEGIN), text.find(END)
    text = text[:begin] + block + text[end + len(END) :] if 0 <= begin < end else f"{text.rstrip()}\n\n{block}\n"
    try:
        write_atomically(path, text.encode())
        print(f"{path} has the verdicts")
    except OSError as error:
        print(f"lab: cannot write the verdicts into {path}: {error.strerror}")
