"""lab ablate: which parts of a recipe matter. Plans an ablation, does its runs as a sweep, and prints its table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lab.cli.arguments import command_parser
from lab.cli.output import align_columns
from lab.cli.report import FORMATS, parse_formats, report_lines, write_files
from lab.cli.run_sweep import show_plan
from lab.cli.train import train_plan
from lab.config.studies import find_study_files, parse_seeds, read_study_file
from lab.hydra_app.app import HydraApp, run_app
from lab.hydra_app.planner import SweepPlanner
from lab.report.ablation import Ablation, main_effects, parse_ablation, scores_by_seed
from lab.report.collect import choose_metric, read_runs
from lab.report.report import make_report

EPILOG = """An ablation is a file in a study's folder, experiments/STUDY/NAME.yaml:

  base: [experiment=few_shot/digits, finetune_strategy=gradual]
  factors:
    cosine: schedule=constant                            # what turns it off
    strategy: {full: finetune_strategy=full, lora: finetune_strategy=lora}     # or swaps
  design: leave_one_out                                  # or add_one, factorial, path
  seeds: 5

Its runs are a sweep: lab resume and lab retry continue it, and runs that exist are shared.
Overrides, such as hydra.launcher.workers=4 or epochs=3, hold for all of them.
"""


@dataclass
class Ablating:
    """What the command asks for.  plan_only: whether to start nothing.  formats: files to write into `out`."""

    name: str
    ablation: Ablation
    plan_only: bool
    formats: Sequence[str]
    out: Path

    def __call__(self, planner: SweepPlanner, arguments: Sequence[str]) -> int:
        """Do the ablation's runs, and print its table. Gives the exit code."""
        ablation = replace(self.ablation, base=arguments)
        jobs = ablation.jobs()
        plan = planner.plan([overrides for _, overrides in jobs])
        if self.plan_only:
            return show_plan(plan, planner.launcher_options)
        code = train_plan(planner, plan)
        names = {job.identity.id: variant.name for job, (variant, _) in zip(plan.jobs, jobs, strict=True)}
        directories = list(dict.fromkeys(job.directory for job in plan.jobs if job.directory.is_dir()))
        print_ablation(self, ablation, names, directories)
        return code


def main(arguments: list[str]) -> int:
    parser = command_parser("ablate", "Which parts of a recipe matter: runs an ablation and prints its table.", EPILOG)
    parser.add_argument("name", metavar="STUDY/NAME", help="the ablation's file, experiments/STUDY/NAME.yaml")
    parser.add_argument("overrides", nargs="*", help="overrides of all runs")
    parser.add_argument("--seeds", type=int, help="number of seeds, in place of the file's")
    parser.add_argument(
        "--plan", action="store_true", help="show the runs, which exist, and what they cost; start none"
    )
    parser.add_argument("--to", default="", metavar="FORMATS", help=f"also as files: {','.join(FORMATS)}")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="FOLDER", help="folder of these files")
    options = parser.parse_intermixed_args(arguments)
    path, content = read_study_file(find_study_files(), options.name, "factors")
    ablation = parse_ablation(path, content)
    if options.seeds is not None:
        ablation = replace(ablation, seeds=parse_seeds(options.seeds, "--seeds"))
    task = Ablating(options.name, ablation, options.plan, parse_formats(options.to), options.out)
    return run_app(["-m", *ablation.base, *options.overrides], HydraApp("ablate", run=None, sweep=task))


def print_ablation(asked: Ablating, ablation: Ablation, names: dict[str, str], directories: Sequence[Path]) -> None:
    """Print the table of an ablation, the recipe first, and write the files that were asked for."""
    runs, notes = read_runs(directories)
    metric, mode = choose_metric(runs, ablation.metric, ablation.mode)
    order = [variant.name for variant in ablation.variants]
    report = make_report(runs, metric, mode, baseline=order[0], names=names, notes=notes)
    report = replace(report, conditions=sorted(report.conditions, key=lambda one: order.index(one.label)))
    lines = ["", f"{asked.name}: {ablation.design}, {len(ablation.seeds)} seeds", *report_lines(report, ranked=False)]
    if ablation.design == "factorial":
        effects = main_effects(ablation, scores_by_seed(runs, names, metric), mode)
        lines += ["", *align_columns(effects.lines()).splitlines()]
    print("\n".join(lines))
    for path in write_files(report, asked.formats, asked.name, asked.out / "ablation", ranked=False):
        print(f"{path} has the table")
