"""lab plan: prints the jobs of a sweep, done and new, and their costs. Starts nothing."""

from collections.abc import Sequence

from lab.cli.run_search import try_search
from lab.cli.run_sweep import show_plan
from lab.hydra_app.app import HydraApp, run_app
from lab.hydra_app.planner import SweepPlanner


def main(arguments: list[str]) -> int:
    return run_app(arguments, HydraApp("plan", run=None, sweep=plan_arguments))


def plan_arguments(planner: SweepPlanner, arguments: Sequence[str]) -> int:
    if planner.search_node:
        return try_search(planner, arguments)
    plan = planner.plan(planner.expand(arguments))
    return show_plan(plan, planner.launcher_options)
