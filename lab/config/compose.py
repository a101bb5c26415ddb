"""From override lists to what runs are asked for, composing once for each choice of groups."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.config.composed import ComposedConfig, unresolved_container, without_hydra_node
from lab.config.hydra_setup import plain_config
from lab.config.messages import explain, readable_error
from lab.errors import ConfigError


class Composer:
    """Hydra's composition of a sweep's jobs at a hundredth of its time: what groups are chosen is composed once, and
    what keys are set to is put on top.

    master: the config that Hydra composed for the sweep.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig):
        assert isinstance(loader, ConfigLoaderImpl)
        self.loader, self.master = loader, master
        self.read = cache(self.parsed)
        self.bases: dict[tuple[str, ...], ComposedBase] = {}

    def __call__(self, number: int, overrides: Sequence[str]) -> ComposedConfig:
        """Raises ConfigError where the overrides do not compose."""
        try:
            parsed = [self.read(override) for override in overrides]
            groups = tuple(str(o.input_line) for o, chooses in parsed if chooses)
            if groups not in self.bases:
                self.bases[groups] = ComposedBase(self.loader.load_sweep_config(self.master, list(groups)))
            keys = [o for o, chooses in parsed if not chooses]
            return self.bases[groups].with_keys(number, keys, list(overrides))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(explain(error, list(overrides))) from error

    def parsed(self, override: str) -> tuple[Override, bool]:
        """An override, and whether it chooses an option of a group, as Hydra tells."""
        found = OverridesParser.create(config_loader=self.loader).parse_override(override)
        is_group = self.loader.repository.group_exists(found.key_or_group)
        return found, is_group and not isinstance(found.value(), dict)


class ComposedBase:
    """A composed config, and the same with keys set."""

    def __init__(self, composed: DictConfig):
        self.composed = composed
        self.hydra = unresolved_container(composed.hydra)
        self.choices = dict(composed.hydra.runtime.choices)
        self.config = without_hydra_node(composed)
        OmegaConf.set_struct(self.config, True)
        self.source = unresolved_container(self.config)
        self.asks_hydra = "${hydra:" in str(self.source)
        self.whole = self.asks_hydra or has_schema(self.config)  # values alone would not do
        self.resolved: dict[str, Any] = {}

    def with_keys(self, number: int, keys: Sequence[Override], overrides: Sequence[str]) -> ComposedConfig:
        asks = self.whole or any("${hydra:" in override for override in overrides)
        source = None if asks else set_values(self.source, keys)
        if source is None:
            return self.composed_with(number, keys, overrides)
        config = {name: self.piece(name, source) for name in source}
        return ComposedConfig(config, source, self.hydra, overrides, self.choices)

    def piece(self, name: str, source: Mapping[str, Any]) -> Any:
        """One key of the top level, resolved. Jobs share what they have in common."""
        text = base_json(source[name])
        if "${" not in text and '"???"' not in text:
            return source[name]
        if '"???"' in text or not has_only_absolute(text):
            key = base_json([name, source])
            if key not in self.resolved:
                self.resolved[key] = plain_config(OmegaConf.create(dict(source)))[name]
            return self.resolved[key]
        return self.value(source[name], source)

    def value(self, value: Any, source: Mapping[str, Any]) -> Any:
        """The same nest with its interpolations resolved, each against what it may depend on and nothing else."""
        if isinstance(value, dict):
            return {key: self.value(part, source) for key, part in value.items()}
        if isinstance(value, list):
            return [self.value(part, source) for part in value]
        if not isinstance(value, str) or "${" not in value:
            return value
        if (alone := ALONE.fullmatch(value)) and (found := lookup_path(alone[1], source)) is not None:
            text = base_json(found)
            if "${" not in text and "???" not in text:
                return found
        needed = mentioned_values(value, source)
        key = base_json([value, needed])
        if key not in self.resolved:
            nodes = {path.partition(".")[0] for path in needed}
            self.resolved[key] = resolve_leaf(OmegaConf.create({**{name: source[name] for name in nodes}, LEAF: value}))
        return self.resolved[key]

    def composed_with(self, number: int, keys: Sequence[Override], overrides: Sequence[str]) -> ComposedConfig:
        """As Hydra does it, by its own function: for whatever is not a plain value in the place of another."""
        config = copy.deepcopy(self.config)
        ConfigLoaderImpl._apply_overrides_to_config(list(keys), config)
        if self.asks_hydra or any("${hydra:" in override for override in overrides):
            self.tell_hydra(number, overrides)
        source = unresolved_container(config)
        # as much as is the same is shared: a plan of thousands of jobs is held in memory
        shared = {key: self.source[key] if self.source.get(key) == value else value for key, value in source.items()}
        return ComposedConfig(plain_config(config), shared, self.hydra, overrides, self.choices)

    def tell_hydra(self, number: int, overrides: Sequence[str]) -> None:
        """Have interpolations of Hydra's node answered for this job."""
        OmegaConf.set_readonly(self.composed.hydra, False)
        OmegaConf.update(self.composed, "hydra.job.num", number, force_add=True)
        OmegaConf.update(self.composed, "hydra.job.id", str(number), force_add=True)
        OmegaConf.update(self.composed, "hydra.overrides.task", list(overrides))
        HydraConfig.instance().set_config(self.composed)


def set_values(source: Mapping[str, Any], keys: Sequence[Override]) -> dict[str, Any] | None:
    """The source with plain values in the place of others; None where an override does anything else."""
    changed = dict(source)
    for override in keys:
        value = override.value()
        if override.type is not OverrideType.CHANGE or override.package or not isinstance(value, PLAIN_TYPES):
            return None
        *parents, last = override.key_or_group.split(".")
        node: Any = changed
        for part in parents:
            if not isinstance(node.get(part), dict):
                return None
            node[part] = node = dict(node[part])
        if last not in node or isinstance(node[last], dict):
            return None
        node[last] = value
    return changed


def has_schema(node: Any) -> bool:
    """Whether a config has a schema, which converts and checks what it is set to."""
    if not OmegaConf.is_dict(node):
        return False
    return OmegaConf.get_type(node) is not dict or any(has_schema(node._get_node(key)) for key in node)


def resolve_leaf(config: DictConfig) -> Any:
    try:
        found = config[LEAF]
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    except OmegaConfBaseException as error:
        raise ConfigError(readable_error(error)) from error


def mentioned_values(text: str, source: Mapping[str, Any]) -> dict[str, Any]:
    """What the interpolations in `text` depend on, by its dotted path: what they mention, what that mentions, ..."""
    found: dict[str, Any] = {}
    unread = [text]
    while unread:
        for path in {one or other for one, other in MENTION.findall(unread.pop())}:
            # whole, where what is mentioned is not there, or is itself interpolated
            there = path if lookup_path(path, source) is not None else path.partition(".")[0]
            if there not in found and there.partition(".")[0] in source:
                value = lookup_path(there, source)  # which may be null
                if not has_only_absolute(written := base_json(value)):
                    return dict(source)  # it may depend on anything
                found[there] = value
                unread.append(written)
    return found


def has_only_absolute(text: str) -> bool:
    """Whether what is interpolated depends on nothing but what is mentioned by its whole path."""
    known = len(MENTION.findall(text)) + sum(resolver in KNOWN_RESOLVERS for resolver in RESOLVER.findall(text))
    return text.count("${") == known


def lookup_path(path: str, source: Mapping[str, Any]) -> Any:
    """The value at a dotted path; None where there is none."""
    value: Any = source
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def base_json(value: Any) -> str:
    return json.dumps(value, default=str)


PLAIN_TYPES = (str, int, float, bool, type(None))
KNOWN_RESOLVERS = ("oc.env", "oc.decode", "lab.len", "lab.subfolders")  # what else they are given is text
RESOLVER = re.compile(r"\$\{([\w.]+):")
MENTION = re.compile(r"\$\{(?:([A-Za-z_][\w.]*)\}|oc\.select:([A-Za-z_][\w.]*))")
ALONE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
LEAF = "the value in question"
