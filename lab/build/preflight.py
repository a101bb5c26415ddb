"""What can be found out about a whole sweep before its first run: problems, and what a run will cost."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch

from lab.config.composed import ComposedConfig
from lab.build.build import attempt, build, build_model, build_optimizer, build_regularizer, instantiate, create_model_and_groups, build_cadence
from lab.config.check import check_config, check_group
from lab.config.groups import GROUPS, retried_parts
from lab.build.dry_run import dry_run
from lab.errors import ConfigError
from lab.build.preflight_report import GraphReport, PreflightReport
from lab.config.settings import SETTINGS, Settings
from lab.metrics.scores import Monitor
from lab.text import format_si
from lab.run import Run
from lab.build.cost_estimate import CostEstimate, estimate_cost, checkpoint_bytes
from lab.train.batches import training_batches


class PreflightJob(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def asked(self) -> ComposedConfig: ...


def preflight(jobs: Sequence[PreflightJob]) -> PreflightReport:
    """Check every job, and build and try each distinct graph once."""
    report = PreflightReport()
    known: dict[tuple[str, str], list[str]] = {}
    graphs: dict[str, list[PreflightJob]] = {}

    def of_group(group: str, node: Any) -> list[str]:
        key = (group, graph_json(node))
        if key not in known:
            known[key] = check_group(group, node)
        return known[key]

    for job in jobs:
        config = job.asked.config
        try:
            check_config(config, job.asked.source, of_group)
            graphs.setdefault(graph_key(config), []).append(job)
        except ConfigError as error:
            report.problems[job.number] = error.problems
    for alike in graphs.values():
        choices = alike[0].asked.choices
        label = f"{choices.get('data')} {choices.get('model')}"
        report.graphs.append(GraphReport(label, [job.number for job in alike]))
        try_graph(alike, report)
    report.gpus = count_gpus([job.asked.config for job in jobs])
    return report


def try_graph(jobs: Sequence[PreflightJob], report: PreflightReport) -> None:
    """One batch through the first of these jobs, then each part by which the others differ on its own."""
    first = jobs[0].asked.config
    try:
        run = build(first)
        batch = dry_run(run)
        found = estimate_run(first, run, batch)
        report.graphs[-1].cost = describe_estimate(found)
        report.graphs[-1].disk = 3 * found.saved  # the last checkpoint, the one before and the best
    except ConfigError as error:
        report.problems |= {job.number: error.problems for job in jobs}
        return
    known: dict[str, Sequence[str]] = {}
    for job in jobs:
        config = job.asked.config
        settings = [config[name] for name in SETTINGS if name != "seed"]
        for group, parts in retried_parts().items():
            key = graph_json([group, settings, *(config[part] for part in parts)])
            if key not in known:
                known[key] = collect_problems(partial(try_part, group, config, run, batch))
            if known[key]:
                report.problems[job.number] = [*report.problems.get(job.number, ()), *known[key]]


def try_part(group: str, config: Mapping[str, Any], run: Run, batch: Any) -> None:
    """Make the part of another job as `build` would, in the place of the run's own."""
    settings = attempt("", partial(Settings.of, config))
    monitor = attempt("", partial(Monitor, settings.monitor, settings.mode))
    if group == "model":
        with torch.device("meta"):
            create_model_and_groups(config, settings)
    elif group == "augment":
        attempt(group, lambda: next(training_batches(replace(run, augment=instantiate(config, group)), 0)))
    elif group == "regularize":
        build_regularizer(config, run.model, monitor, attempt("", partial(build_cadence, settings, run.data)))
    else:
        # not by the strategy: one that changes the model (LoRA) has done so
        build_optimizer(config, [{"params": run.trainable}], attempt("", partial(build_cadence, settings, run.data)))


def collect_problems(make: Callable[[], None]) -> Sequence[str]:
    try:
        make()
    except ConfigError as error:
        return error.problems
    return ()


def estimate_run(config: Mapping[str, Any], run: Run, batch: Any) -> CostEstimate:
    """What a step costs, or its parameters alone where that cannot be traced."""
    settings = Settings.of(config)
    hardware = replace(run.hardware, compile=False)

    def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model, groups = build_model(config, settings, hardware)
        return model, attempt("optimizer", partial(instantiate(config, "optimizer"), groups))

    try:
        how = {"autocast": run.hardware.autocast, "micro_batch": run.hardware.micro_batch}
        return estimate_cost(make, run.task.loss, batch, **how)
    except Exception:  # the batch did go through: it is the tracing that failed
        parameters = sum(p.numel() for p in run.model.parameters())
        trained = sum(p.numel() for p in run.trainable)
        return CostEstimate(parameters, trained, None, None, checkpoint_bytes(run.model, run.optimizer))


def describe_estimate(found: CostEstimate) -> str:
    flops = "FLOPs not estimated" if found.flops is None else f"{format_si(found.flops)}FLOPs a step"
    peak = "peak memory not estimated" if found.peak is None else f"{format_si(found.peak)}B at its peak"
    return f"{found.parameters:,} parameters, {found.trainable:,} trained; {flops}; {peak}"


def graph_key(config: Mapping[str, Any]) -> str:
    """Equal for jobs that do the same arithmetic but for numbers that are no shape."""
    graph = {name: without_numbers(config[name]) for name, group in GROUPS.items() if group.in_graph}
    return graph_json([graph, *(config[name] for name in ("overfit", "monitor", "weights"))])


def without_numbers(value: Any) -> Any:
    """The same nest without seeds and floats."""
    if isinstance(value, Mapping):
        return {key: without_numbers(part) for key, part in value.items() if key != "seed"}
    if isinstance(value, list):
        return [without_numbers(part) for part in value]
    return None if isinstance(value, float) else value


def graph_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def count_gpus(configs: Sequence[Mapping[str, Any]]) -> int:
    wanted = any(str(config["hardware"].get("device")).startswith(("auto", "cuda")) for config in configs)
    return torch.cuda.device_count() if wanted and torch.cuda.is_available() else 0
