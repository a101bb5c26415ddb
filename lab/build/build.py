"""From plain values to live objects, in one fixed order. Below this there is no config."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from lab.distributed import collectives, shards
from lab.config.groups import GROUPS
from lab.errors import ConfigError
from lab.config.settings import Settings
from lab.hardware import Hardware
from lab.metrics.scores import Monitor
from lab.models.weights import draw_head, load_weights
from lab.optim.clip import make_clip
from lab.optim.decay import no_decay_groups
from lab.regularize.chain import Chain
from lab.signatures import accepted_arguments
from lab.run import Cadence, Data, Run, Schedule, cadence
from lab.seeding import seed_all, stream_seed
from lab.train.single_batch import SingleBatch


def build(config: Mapping[str, Any]) -> Run:
    """The run that a checked config describes. Raises ConfigError where a part cannot be made as asked."""
    settings = attempt("", partial(Settings.of, config))
    monitor = attempt("", partial(Monitor, settings.monitor, settings.mode))
    hardware: Hardware = instantiate(config, "hardware")
    attempt("hardware", hardware.setup)
    data = build_data(config, settings, hardware)
    pace = attempt("", partial(build_cadence, settings, data))
    model, groups = build_model(config, settings, hardware)
    regularize = Chain([build_regularizer(config, model, monitor, pace), getattr(groups, "say", None)])
    if hardware.parallel == "fsdp" and hardware.processes != 1:
        groups = shard_run(model, groups, regularize, hardware)
    optimizer, schedule = build_optimizer(config, groups, pace)
    parts = {
        "augment": unwrap_partial(instantiate(config, "augment")),
        "regularize": regularize,
        "hardware": hardware,
        "clip": attempt("", partial(make_clip, settings.max_norm)),
        "monitor": monitor,
        "final": settings.final,
    }
    task = instantiate(config, "task")
    return attempt("", partial(Run, model, task, data, optimizer, schedule, pace, settings.seed, **parts))


def build_data(config: Mapping[str, Any], settings: Settings, hardware: Hardware) -> Data:
    seed_all(stream_seed(settings.seed, "init"))  # a data set of one's own may draw while it is made
    data: Data = instantiate(config, "data")
    if to := getattr(data, "to", None):
        attempt("data", partial(to, hardware.device))
    return SingleBatch(data) if settings.overfit else data


def build_model(
    config: Mapping[str, Any], settings: Settings, hardware: Hardware
) -> tuple[torch.nn.Module, list[dict[str, Any]]]:
    """The model on its device, drawn from the init stream, and the parameter groups that its strategy trains."""
    model, groups = create_model_and_groups(config, settings)
    attempt("hardware", partial(hardware.place, model))
    return model, groups


def create_model_and_groups(config: Mapping[str, Any], settings: Settings) -> tuple[torch.nn.Module, list[dict[str, Any]]]:
    """As build_model, the model where torch makes it."""
    strategy: partial[list[dict[str, Any]]] = instantiate(config, "finetune_strategy")
    model = create_model(config, settings, at_random=getattr(strategy.func, "from_random_start", False))
    groups = attempt("finetune_strategy", partial(strategy, model))
    if not any(len(group["params"]) for group in groups):
        raise ConfigError("finetune_strategy: it trains no parameter of the model")
    return model, groups


def create_model(config: Mapping[str, Any], settings: Settings, at_random: bool = False) -> torch.nn.Module:
    """The model where torch makes it, drawn from the init stream, with the weights to start from, unless at random."""
    if at_random and "weights" in config["model"]:
        config = {**config, "model": {**config["model"], "weights": None}}
    seed_all(stream_seed(settings.seed, "init"))
    model = instantiate(config, "model")
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"model: {config['model']['_target_']} gives a {type(model).__name__}, not a torch.nn.Module")
    if not at_random:
        load_initial_weights(model, config["model"], settings)
    return model


def load_initial_weights(model: torch.nn.Module, node: Mapping[str, Any], settings: Settings) -> None:
    """Load `settings.weights` into a model that does not take them itself, and draw its head anew where asked.

    node: the model's config.
    """
    if "weights" not in node and settings.weights is not None:
        attempt("weights", partial(load_weights, model, settings.weights))
    if "weights" in node and settings.weights not in (None, node["weights"]):
        raise ConfigError(
            f"weights={settings.weights}, but model.weights={node['weights']}; give one of the two, or write "
            "`weights: ${weights}` in the model's YAML"
        )
    if settings.new_head:
        attempt("new_head", partial(draw_head, model))


def shard_run(
    model: torch.nn.Module, groups: list[dict[str, Any]], regularize: Chain, hardware: Hardware
) -> list[dict[str, Any]]:
    """Shard the model over the processes, where there are any yet; the groups of its shards.

    Raises ConfigError for what needs whole weights.
    """
    whole = [type(part).__name__ for part in regularize.parts if any(hasattr(part, name) for name in WHOLE_WEIGHT_HOOKS)]
    if whole:
        raise ConfigError(f"hardware: {', '.join(whole)} needs whole weights, which fsdp has in shards; hardware=ddp")
    if any(group.get("from_epoch", 0) > 0 for group in groups):
        raise ConfigError("hardware: fsdp cannot thaw groups on the way, as finetune_strategy= wants; hardware=ddp can")
    if collectives.get_world_size() == 1:
        return groups
    return attempt("hardware", partial(shards.shard_model, model, groups, hardware.device))


WHOLE_WEIGHT_HOOKS = ("backward", "penalise", "step", "scored")


def build_optimizer(
    config: Mapping[str, Any], groups: list[dict[str, Any]], pace: Cadence
) -> tuple[torch.optim.Optimizer, Schedule]:
    spared = config["weight_decay_on"] == "matrices"
    optimizer = attempt("optimizer", partial(instantiate(config, "optimizer"), no_decay_groups(groups) if spared else groups))
    if spared and not all("weight_decay" in group for group in optimizer.param_groups):
        raise ConfigError(
            f"weight_decay_on=matrices: {type(optimizer).__name__} has no weight decay to spare any of; "
            "give weight_decay_on=all"
        )
    for group in optimizer.param_groups:
        # by torch's name for it, the rate that a schedule multiplies
        group["initial_lr"] = group["lr"] = group["lr"] * group.get("lr_scale", 1.0)
    lengths = dict.fromkeys(GROUPS["schedule"].by_name, pace.steps)
    schedule = call_with_offered("schedule", instantiate(config, "schedule"), optimizer, **lengths)
    check_step_signature("optimizer", optimizer)
    check_step_signature("schedule", schedule)
    return optimizer, schedule


def build_regularizer(config: Mapping[str, Any], model: torch.nn.Module, monitor: Monitor, pace: Cadence) -> Any:
    of_run = {"model": model, "monitor": monitor, "steps": pace.steps, "steps_per_epoch": pace.steps_per_epoch}
    return call_with_offered("regularize", instantiate(config, "regularize"), **of_run)


def instantiate(config: Mapping[str, Any], group: str) -> Any:
    """The object of one group, or for a partial node a plain functools.partial that is still to be called."""
    from hydra.utils import instantiate as hydra_instantiate

    assert group in GROUPS
    made = attempt(group, partial(hydra_instantiate, dict(config[group]), _convert_="all"))
    return plain_partials(made)


def plain_partials(made: Any) -> Any:
    """functools' partials for Hydra's, which run its target policy at each call (270 us) and do not pickle in 1.4."""
    if isinstance(made, partial):
        return partial(made.func, *made.args, **{name: plain_partials(part) for name, part in made.keywords.items()})
    return [plain_partials(part) for part in made] if isinstance(made, list) else made


def unwrap_partial(made: Any) -> Any:
    """The function itself of a partial that gives it nothing, so that it can be told from others."""
    return made.func if isinstance(made, partial) and not made.args and not made.keywords else made


def attempt(where: str, make: Callable[[], Any]) -> Any:
    """What `make` gives; what goes wrong in it is a problem of the config at `where`."""
    try:
        return make()
    except ConfigError:
        raise
    except SystemExit as error:
        raise ConfigError(f"{where}: it ended the process with {error!r}") from error
    except Exception as error:
        # Hydra wraps what the target raised, with the whole node in the message
        cause = error.__cause__ if type(error).__name__ == "InstantiationException" and error.__cause__ else error
        kind = "" if isinstance(cause, ValueError | OSError) else f"{type(cause).__name__}: "
        said = str(cause).strip()
        if "Original Traceback" in said:  # of a loader worker, whose last line is the message
            kind, said = "", said.splitlines()[-1].partition(": ")[2]
        raise ConfigError(f"{where}: {kind}{said}" if where else f"{kind}{said}") from cause


def call_with_offered(where: str, make: Callable[..., Any], *positional: Any, **by_name: Any) -> Any:
    """Call with the positional arguments, and those by name that the callable takes and the config does not give."""
    return attempt(where, partial(make, *positional, **accepted_arguments(make, by_name)))


def check_step_signature(group: str, part: Any) -> None:
    """The loop calls step() without arguments; what cannot do so is refused before it starts."""
    parameters = list(inspect.signature(type(part).step).parameters.values())[1:]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in named if p.default is p.empty]
    if needed:
        raise ConfigError(
            f"{group}: {type(part).__name__}.step needs {', '.join(needed)}, which the loop does not give"
        )


def build_cadence(settings: Settings, data: Data) -> Cadence:
    per_epoch: int | None = getattr(data, "steps_per_epoch", None)
    if per_epoch is None:
        if settings.steps is None:
            raise ValueError(f"{type(data).__name__} has no steps_per_epoch to count epochs by; give steps=, or add it")
        per_epoch = settings.steps
    steps = settings.steps or settings.epochs * per_epoch
    return cadence(steps, per_epoch, settings.eval_every, settings.save_every, settings.log_every)
