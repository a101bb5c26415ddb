"""Builds a run from a config: plain values become live objects, in a fixed order. Modules below use no config."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lab.assembly.blame import blame
from lab.augment.none import none
from lab.config.check import without_untaken_facts
from lab.config.groups import GROUPS
from lab.config.settings import Settings
from lab.config.targets import instantiate_node
from lab.distributed.collectives import get_world_size
from lab.distributed.shards import shard_model
from lab.errors import ConfigError
from lab.finetune.groups import Groups, ParameterGroups
from lab.hardware import Hardware
from lab.ledger.weights_file import find_weights
from lab.metrics.scores import Monitor
from lab.models.origin import origin_of, set_origin
from lab.models.weights import draw_head, load_weights
from lab.optim.clip import make_clip
from lab.optim.decay import no_decay_groups
from lab.regularize.chain import Chain
from lab.run import Augmentation, Cadence, Data, Run, Schedule, Task, cadence
from lab.seeding import seed_all, stream_seed
from lab.signatures import accepted_arguments
from lab.train.single_batch import SingleBatch

# of Hydra 1.4, for each target, until 1.5 wants to be told which are allowed; `lab.config.trust` judges them
warnings.filterwarnings("ignore", r"hydra\.utils\.instantiate\(\) resolved")

WHOLE_WEIGHT_HOOKS = (
    "backward",
    "add_to_gradients",
    "step",
    "model_to_score",
)  # of a regularizer that needs them whole


def build(config: Mapping[str, Any], data: Data | None = None) -> Run:
    """The run of a checked config. Raises ConfigError where a part cannot be made.

    data: data set to use in place of the config's, such as a reader of new inputs.
    """
    settings = read_settings(config)
    with blame(""):
        monitor = Monitor(settings.monitor, settings.mode)
        clip = make_clip(settings.max_norm)
    hardware: Hardware = instantiate(config, "hardware")
    with blame("hardware"):
        hardware.setup()
    if data is None:
        data = build_data(config, settings, hardware)
    with blame(""):
        cadence = build_cadence(settings, data)
    model, groups = build_model(config, settings, hardware)
    regularize = Chain([build_regularizer(config, model, monitor, cadence), groups.regularizer])
    parameters = groups.groups
    if hardware.parallel == "fsdp" and hardware.processes != 1:
        parameters = shard_run(model, parameters, regularize, hardware)
    optimizer, schedule = build_optimizer(config, settings, parameters, cadence, model)
    task: Task = instantiate(config, "task")
    if bind := getattr(task, "bind", None):
        with blame("task"):
            bind(data)
    data, augment = place_augmentation(data, unwrap_partial(instantiate(config, "augment")))
    with blame(""):
        return Run(
            model,
            task,
            data,
            optimizer,
            schedule,
            cadence,
            settings.seed,
            augment=augment,
            regularize=regularize,
            hardware=hardware,
            clip=clip,
            monitor=monitor,
            final=settings.final,
        )


def read_settings(config: Mapping[str, Any]) -> Settings:
    with blame(""):
        return Settings.of(config)


def build_data(config: Mapping[str, Any], settings: Settings, hardware: Hardware) -> Data:
    """The data set, moved to the device if it has a method for that; with overfit, its first batch alone."""
    seed_all(stream_seed(settings.seed, "init"))  # a project's data set may draw while it is made
    data: Data = instantiate(config, "data")
    if move := getattr(data, "to", None):
        with blame("data"):
            move(hardware.device)
    return SingleBatch(data) if settings.overfit else data


def place_augmentation(data: Data, augment: Augmentation) -> tuple[Data, Augmentation]:
    """The two as they are; or, for an augmentation of single examples and a data set that reads them in loader workers,
    the data set that augments them there, and none."""
    augment_example, augmented_by = getattr(augment, "augment_example", None), getattr(data, "augmented_by", None)
    return (augmented_by(augment_example), none) if augment_example and augmented_by else (data, augment)


def build_model(config: Mapping[str, Any], settings: Settings, hardware: Hardware) -> tuple[torch.nn.Module, Groups]:
    """The model on its device, drawn from the init stream, and the parameter groups that its strategy trains."""
    model, groups = create_model_and_groups(config, settings)
    with blame("hardware"):
        hardware.place(model)
    return model, groups


def create_model_and_groups(config: Mapping[str, Any], settings: Settings) -> tuple[torch.nn.Module, Groups]:
    """As `build_model`, but the model stays on the device on which torch creates it."""
    strategy: partial[ParameterGroups | Groups] = instantiate(config, "finetune_strategy")
    model = create_model(config, settings, at_random=getattr(strategy.func, "from_random_start", False))
    with blame("finetune_strategy"):
        groups = Groups.of(strategy(model))
    if not any(len(group["params"]) for group in groups.groups):
        raise ConfigError("finetune_strategy: it trains no parameter of the model")
    return model, groups


def create_model(config: Mapping[str, Any], settings: Settings, at_random: bool = False) -> torch.nn.Module:
    """The model, drawn from the init stream, with the weights to start from, on the device on which torch creates it.

    at_random: whether to load no weights.
    """
    node: dict[str, Any] = dict(config["model"])
    loads_itself = "weights" in node
    if loads_itself and settings.weights not in (None, node["weights"]) and not at_random:
        raise ConfigError(
            f"weights={settings.weights}, but model.weights={node['weights']}; give one of the two, or write "
            "`weights: ${weights}` in the model's YAML"
        )
    typed_weights = None if at_random else node["weights"] if loads_itself else settings.weights
    with blame("model" if loads_itself else "weights"):
        weights = typed_weights
        if isinstance(typed_weights, str):
            weights = locate_weights(typed_weights, Path(str(config["paths"]["outputs"])))
    if loads_itself:
        node["weights"] = weights
    seed_all(stream_seed(settings.seed, "init"))
    model = instantiate({"model": node}, "model")
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"model: {node['_target_']} gives a {type(model).__name__}, not a torch.nn.Module")
    if weights is not None and not loads_itself:
        with blame("weights"):
            load_weights(model, weights)
    if (origin := origin_of(model)) and origin.source == weights:
        set_origin(model, replace(origin, source=str(typed_weights)))
    if settings.new_head and not at_random:
        with blame("new_head"):
            draw_head(model)
    return model


def locate_weights(weights: str, outputs: Path) -> str:
    """The path of the file that `weights` names, checked against its seal; `weights` itself where it names no file.

    outputs: folder in which runs are looked up by their id. Raises ValueError or LabError as `find_weights`.
    """
    file = find_weights(weights, outputs)
    if file is None:
        return weights
    file.check()
    return str(file.path)


def shard_run(
    model: torch.nn.Module, groups: ParameterGroups, regularize: Chain, hardware: Hardware
) -> ParameterGroups:
    """Shard the model over the ranks of the process group; gives the parameter groups with the shards. Without a
    process group, the groups as they are.

    Raises ConfigError for regularizers that need whole weights, and for groups that are frozen at first.
    """
    unsuitable = [
        type(part).__name__ for part in regularize.parts if any(hasattr(part, name) for name in WHOLE_WEIGHT_HOOKS)
    ]
    if unsuitable:
        raise ConfigError(
            f"hardware: {', '.join(unsuitable)} needs whole weights, which fsdp has in shards; hardware=ddp"
        )
    if any(group.get("from_epoch", 0) > 0 for group in groups):
        raise ConfigError("hardware: fsdp cannot thaw groups on the way, as finetune_strategy= wants; hardware=ddp can")
    if get_world_size() == 1:
        return groups
    with blame("hardware"):
        return shard_model(model, groups, hardware.device)


def build_optimizer(
    config: Mapping[str, Any],
    settings: Settings,
    groups: ParameterGroups,
    cadence: Cadence,
    model: torch.nn.Module | None = None,
) -> tuple[torch.optim.Optimizer, Schedule]:
    """The optimizer of these groups, and its schedule. Each group's learning rate is multiplied by its `lr_scale`.

    model: model that has the parameters, which tells those without weight decay; see `no_decay_groups`.
    """
    matrices_only = settings.weight_decay_on == "matrices"
    make_optimizer = instantiate(config, "optimizer")
    with blame("optimizer"):
        optimizer = make_optimizer(no_decay_groups(groups, model) if matrices_only else groups)
    if matrices_only and not all("weight_decay" in group for group in optimizer.param_groups):
        raise ConfigError(
            f"weight_decay_on=matrices: {type(optimizer).__name__} has no weight decay to spare any of; "
            "give weight_decay_on=all"
        )
    for group in optimizer.param_groups:
        # torch's name for the rate that a schedule multiplies
        group["initial_lr"] = group["lr"] = group["lr"] * group.get("lr_scale", 1.0)
    lengths = dict.fromkeys(GROUPS["schedule"].by_name, cadence.steps)
    schedule = call_with_offered("schedule", instantiate(config, "schedule"), optimizer, **lengths)
    check_step_signature("optimizer", optimizer)
    check_step_signature("schedule", schedule)
    return optimizer, schedule


def build_regularizer(config: Mapping[str, Any], model: torch.nn.Module, monitor: Monitor, cadence: Cadence) -> Any:
    return call_with_offered(
        "regularize",
        instantiate(config, "regularize"),
        model=model,
        monitor=monitor,
        steps=cadence.steps,
        steps_per_epoch=cadence.steps_per_epoch,
    )


def build_cadence(settings: Settings, data: Data) -> Cadence:
    """Raises ValueError where the data set has no `steps_per_epoch` and the config no `steps`."""
    steps_per_epoch: int | None = getattr(data, "steps_per_epoch", None)
    if steps_per_epoch is None:
        if settings.steps is None:
            raise ValueError(f"{type(data).__name__} has no steps_per_epoch to count epochs by; give steps=, or add it")
        steps_per_epoch = settings.steps
    steps = settings.steps or settings.epochs * steps_per_epoch
    return cadence(steps, steps_per_epoch, settings.eval_every, settings.save_every, settings.log_every)


def instantiate(config: Mapping[str, Any], group: str) -> Any:
    """The object of a group's node; for a partial node, a functools.partial that makes it."""
    assert group in GROUPS
    with blame(group):
        facts = GROUPS[group].facts
        return instantiate_node(without_untaken_facts(config[group], GROUPS[group]) if facts else config[group])


def unwrap_partial(function: Any) -> Any:
    """The function of a partial without arguments, so that it can be compared by `is`; anything else unchanged."""
    return function.func if isinstance(function, partial) and not function.args and not function.keywords else function


def call_with_offered(group: str, function: Callable[..., Any], *positional: Any, **offered: Any) -> Any:
    """Call the function with the positional arguments, and with those of `offered` that it takes and that the config
    does not give."""
    with blame(group):
        return function(*positional, **accepted_arguments(function, offered))


def check_step_signature(group: str, part: Any) -> None:
    """Raises ConfigError for an optimizer or schedule whose step() needs arguments, which the loop does not give."""
    parameters = list(inspect.signature(type(part).step).parameters.values())[1:]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in named if p.default is p.empty]
    if needed:
        raise ConfigError(
            f"{group}: {type(part).__name__}.step needs {', '.join(needed)}, which the loop does not give"
        )
