"""The config groups of a run: which objects belong to each, and how the runner uses the group's node.

A new group takes one entry here and a folder in conf/. Base classes are dotted paths, so that this module does not
import torch.
"""

from dataclasses import dataclass
from typing import Literal

# modules (and one function) of other packages whose classes a config may name.
# None of them opens, imports or evaluates what it is given; tests/test_trust.py calls each with bait.
LIBRARIES = (
    "torch.nn",
    "torch.optim",
    "torchvision.models",
    "torchvision.transforms",
    "torchvision.ops",
    "timm.create_model",
    "timm.models",
    "timm.layers",
    "timm.loss",
    "timm.optim",
    "bitsandbytes.optim",
    "optuna.samplers",
    "optuna.pruners",
)
# those of them whose functions count as well, where they are annotated to return a class of the same package
FACTORY_LIBRARIES = ("torchvision.models", "timm.models")
# functions there that make models, but whose annotation does not name such a class
LIBRARY_FUNCTIONS = ("torchvision.models._api.get_model", "timm.models._factory.create_model")
# arguments of a package's functions by which it opens a file or a URL, or unpickles it
UNSAFE_ARGUMENTS = {
    "timm": ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_custom_load", "cache_dir")
}


@dataclass(frozen=True)
class Group:
    """A config group. Each of its options is a node with a `_target_`.

    name: as Hydra spells the group.
    package: module or package that defines lab's own objects of the group; None where there are none.
    base_class: dotted path of a class whose instances belong to the group; None where there is none.
    methods: names of methods; an object that has all of them belongs to the group, whatever its class.
    partial: whether `_partial_: true` is required, allowed or refused in the node.
    positional: number of arguments that the runner supplies by position to the callable of a partial node.
    by_name: arguments that the runner supplies by name, if the callable takes them and the config does not set them.
    facts: keys of the node that other nodes read, as in `${data.num_classes}`. They are arguments of the callable only
        if it takes them.
    in_hparams: whether the chosen option is shown in TensorBoard's HPARAMS table.
    in_graph: whether the node's values, except for floats and seeds, decide which arithmetic a job does. Of all jobs
        that do the same arithmetic, the preflight tries one completely.
    retried_with: group whose part of the run the preflight builds again where the node differs between jobs of the same
        arithmetic; None where such a difference cannot cause an error.
    """

    name: str
    package: str | None
    base_class: str | None = None
    methods: tuple[str, ...] = ()
    partial: Literal["required", "allowed", "refused"] = "refused"
    positional: int = 0
    by_name: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    in_hparams: bool = True
    in_graph: bool = True
    retried_with: str | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """The keys that lead to the group's node in the config."""
        return tuple(self.name.split("/"))


def index_by_name(*groups: Group) -> dict[str, Group]:
    return {group.name: group for group in groups}


GROUPS = index_by_name(
    Group(
        "model",
        package="lab.models",
        base_class="torch.nn.Module",
        retried_with="model",
    ),
    Group(
        "data",
        package="lab.data",
        methods=("batches", "val", "test"),
        facts=(
            "shape",
            "num_classes",
            "classes",
            "num_features",
            "vocab_size",
            "max_length",
            "target_vocab_size",
            "joint",
            "languages",
        ),
    ),
    Group(
        "augment",
        package="lab.augment",
        base_class="torch.nn.Module",
        partial="allowed",  # functions are partial; modules, such as torchvision's transforms, are not
        positional=2,  # batch, generator
        retried_with="augment",
    ),
    Group("task", package="lab.tasks", base_class="torch.nn.Module", methods=("loss", "score"), in_hparams=False),
    Group(
        "optimizer",
        package="lab.optim",
        base_class="torch.optim.Optimizer",
        partial="required",
        positional=1,  # parameter groups
        in_graph=False,
        retried_with="optimizer",
    ),
    Group(
        "schedule",
        package="lab.optim",
        base_class="torch.optim.lr_scheduler.LRScheduler",
        partial="required",
        positional=1,  # optimizer
        by_name=("steps", "T_max", "total_steps"),  # torch's names for the run's length
        in_graph=False,
        retried_with="optimizer",
    ),
    Group(
        "finetune_strategy",
        package="lab.finetune",
        partial="required",
        positional=1,  # model
        retried_with="model",
    ),
    Group(
        "regularize",
        package="lab.regularize",
        methods=("state_dict", "load_state_dict", "step"),
        partial="required",
        by_name=("model", "monitor", "steps", "steps_per_epoch"),
        retried_with="regularize",
    ),
    Group("hardware", package="lab.hardware", in_hparams=False),
    Group(
        "logger",
        package="lab.record.tensorboard",
        partial="required",
        positional=1,  # directory
        in_hparams=False,
    ),
)

# nodes of a search, which chooses the runs of a sweep; the config of a run does not have them
SEARCH_GROUPS = index_by_name(
    Group(
        "search/sampler",
        package=None,
        base_class="optuna.samplers.BaseSampler",
        partial="required",
        by_name=("seed",),
        in_hparams=False,
        in_graph=False,
    ),
    Group(
        "search/pruner",
        package=None,
        base_class="optuna.pruners.BasePruner",
        partial="allowed",  # the runner supplies no argument to it
        in_hparams=False,
        in_graph=False,
    ),
)


def retried_parts() -> dict[str, tuple[str, ...]]:
    """Each part of a run that the preflight can build again, with the groups that it is built from."""
    parts: dict[str, tuple[str, ...]] = {}
    for group in GROUPS.values():
        if group.retried_with:
            parts[group.retried_with] = (*parts.get(group.retried_with, ()), group.name)
    return parts
