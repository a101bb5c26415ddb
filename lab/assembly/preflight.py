"""The preflight of a whole sweep before its first run: finds problems, and estimates the cost of a run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch

from lab.assembly.blame import blame
from lab.assembly.build import (
    build,
    build_cadence,
    build_model,
    build_optimizer,
    build_regularizer,
    create_model_and_groups,
    instantiate,
    read_settings,
)
from lab.assembly.cost_estimate import CostEstimate, checkpoint_bytes, estimate_cost
from lab.assembly.dry_run import dry_run
from lab.assembly.preflight_report import GraphReport, PreflightReport
from lab.config.check import check_config, check_group, check_settings
from lab.config.composed import ComposedConfig, once_per_object
from lab.config.groups import GROUPS, retried_parts
from lab.config.hydra_job import HydraNodes, job_environment
from lab.config.settings import SETTINGS
from lab.errors import ConfigError
from lab.metrics.scores import Monitor
from lab.run import Batch, Run
from lab.text import format_si
from lab.train.batches import training_batches


class PreflightJob(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def composed(self) -> ComposedConfig: ...


def preflight(jobs: Sequence[PreflightJob], show: Callable[[str], None] = lambda text: None) -> PreflightReport:
    """Check every job, and build and try each distinct graph once.  show: takes what is being done, as it begins."""
    show(f"checking {len(jobs)} configs")
    report = PreflightReport()
    text, graph_text = (
        once_per_object(as_json),
        once_per_object(lambda node: as_json(replace_floats(node, None, "seed"))),
    )
    problems: dict[tuple[str, str], list[str]] = {}
    sound: set[tuple[str, str]] = set()  # nodes without a problem: it would be one of types, not of a float's value
    graphs: dict[tuple[str, ...], list[PreflightJob]] = {}

    def once(name: str, value: Any, find: Callable[[], list[str]]) -> list[str]:
        key = (name, text(value))
        if key not in problems:
            problems[key] = find()
        return problems[key]

    def check_group_once(group: str, node: Any) -> list[str]:
        return once(group, node, lambda: check_kind_once(group, node))

    def check_kind_once(group: str, node: Any) -> list[str]:
        kind = (group, as_json(replace_floats(node, 0.0)))
        if kind in sound:
            return []
        if not (found := check_group(group, node)):
            sound.add(kind)
        return found

    def check_settings_once(settings: dict[str, Any]) -> list[str]:
        return once("", settings, lambda: check_settings(settings))

    for job in jobs:
        config = job.composed.resolved
        try:
            check_config(config, job.composed.unresolved, check_group_once, check_settings_once)
            graphs.setdefault(graph_key(job.composed, text, graph_text), []).append(job)
        except ConfigError as error:
            report.problems[job.number] = error.problems
    for number, alike in enumerate(graphs.values(), start=1):
        first = alike[0].composed
        show(f"{number} of {len(graphs)}: {first.choices.get('model')} on {first.choices.get('data')}")
        try_graph(alike, report, text)
    report.gpus = count_gpus([job.composed.resolved for job in jobs])
    return report


def try_graph(jobs: Sequence[PreflightJob], report: PreflightReport, text: Callable[[Any], str]) -> None:
    """Take one batch through the first of these jobs, then make each part in which the other jobs differ from it,
    alone.

    report: takes the problems, and the costs of one job.  text: `as_json`, which remembers objects that jobs share.
    """
    composed, hydra_nodes = jobs[0].composed, HydraNodes()
    graph = GraphReport(f"{composed.choices.get('data')} {composed.choices.get('model')}", [job.number for job in jobs])
    report.graphs.append(graph)
    try:
        with job_environment(hydra_nodes(composed)):
            run = build(composed.resolved)
            trial = dry_run(run)
            estimate = estimate_run(composed.resolved, run, trial.batch)
    except ConfigError as error:
        report.problems |= {job.number: error.problems for job in jobs}
        report.traces += [error.trace] if error.trace else []
        return
    graph.cost = describe_estimate(estimate)
    graph.disk = 3 * estimate.saved  # the last checkpoint, the one before and the best
    graph.monitor = (trial.monitor.name, trial.monitor.mode) if trial.monitor else None
    problems_of_parts: dict[tuple[str, ...], Sequence[str]] = {}
    for job in jobs:
        config = job.composed.resolved
        settings = as_json([config[name] for name in SETTINGS if name != "seed"])
        for part, groups in retried_parts().items():
            key = (part, settings, *(text(config[group]) for group in groups))
            if key not in problems_of_parts:
                with job_environment(hydra_nodes(job.composed)):
                    problems_of_parts[key] = collect_problems(partial(try_part, part, config, run))
            if problems := problems_of_parts[key]:
                report.problems[job.number] = [*report.problems.get(job.number, ()), *problems]


def try_part(part: str, config: Mapping[str, Any], run: Run) -> None:
    """Make a part of another job as `build` would, in place of the run's own."""
    settings = read_settings(config)
    if part == "model":
        with torch.device("meta"):
            create_model_and_groups(config, settings)
    elif part == "augment":
        augmented = replace(run, augment=instantiate(config, "augment"))
        with blame("augment"):
            next(training_batches(augmented, 0))
    else:
        with blame(""):
            cadence = build_cadence(settings, run.data)
        if part == "regularize":
            build_regularizer(config, run.model, Monitor(settings.monitor, settings.mode), cadence)
        else:  # without the strategy: one that changes the model (LoRA) has done so already
            build_optimizer(config, settings, [{"params": run.trainable}], cadence, run.model)


def collect_problems(make: Callable[[], None]) -> Sequence[str]:
    """The problems of the ConfigError that `make` raises; none where it raises none."""
    try:
        make()
    except ConfigError as error:
        return error.problems
    return ()


def estimate_run(config: Mapping[str, Any], run: Run, batch: Batch) -> CostEstimate:
    """The cost of a training step; only the numbers of parameters and the checkpoint's size where tracing it fails."""
    settings = read_settings(config)
    hardware = replace(run.hardware, compile=False)

    def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model, groups = build_model(config, settings, hardware)
        make_optimizer = instantiate(config, "optimizer")
        with blame("optimizer"):
            return model, make_optimizer(groups.groups)

    try:
        return estimate_cost(make, run.task, batch, hardware)
    except Exception:  # the dry run succeeded, so only the tracing fails
        parameters = sum(p.numel() for p in run.model.parameters())
        trainable = sum(p.numel() for p in run.trainable)
        return CostEstimate(parameters, trainable, None, None, checkpoint_bytes(run.model, run.optimizer))


def describe_estimate(estimate: CostEstimate) -> str:
    flops = "FLOPs not estimated" if estimate.flops is None else f"{format_si(estimate.flops)}FLOPs a step"
    peak = "peak memory not estimated" if estimate.peak is None else f"{format_si(estimate.peak)}B at its peak"
    return f"{estimate.parameters:,} parameters, {estimate.trainable:,} trained; {flops}; {peak}"


def graph_key(
    composed: ComposedConfig, text: Callable[[Any], str], graph_text: Callable[[Any], str]
) -> tuple[str, ...]:
    """A key that is the same for jobs of the same arithmetic, which differ only in numbers that change no shape.

    text, graph_text: texts of a node, with and without its numbers.
    """
    config, environment = composed.resolved, composed.hydra.get("job", {}).get("env_set")
    graph = [graph_text(config[name]) for name, group in GROUPS.items() if group.in_graph]
    return (*graph, as_json([environment, *(config[name] for name in ("overfit", "monitor", "mode", "weights"))]))


def replace_floats(value: Any, by: float | None, *left_out: str) -> Any:
    """The same nest with `by` for each float.  left_out: keys to leave out."""
    if isinstance(value, dict):
        return {key: replace_floats(part, by, *left_out) for key, part in value.items() if key not in left_out}
    if isinstance(value, list):
        return [replace_floats(part, by, *left_out) for part in value]
    return by if isinstance(value, float) else value


def as_json(value: Any) -> str:
    """A nest as text: the same text for equal nests."""
    return json.dumps(value, sort_keys=True, default=str)


def count_gpus(configs: Sequence[Mapping[str, Any]]) -> int:
    """The number of this machine's GPUs; 0 where no config uses one."""
    uses_gpus = any(str(config["hardware"].get("device")).startswith(("auto", "cuda")) for config in configs)
    return torch.cuda.device_count() if uses_gpus and torch.cuda.is_available() else 0
