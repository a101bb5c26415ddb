"""Messages for errors of Hydra and OmegaConf that tell the user what to type next."""

import re
from collections.abc import Iterator
from contextlib import nullcontext

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from lab.config.groups import GROUPS
from lab.config.overrides import override_key
from lab.errors import ConfigError
from lab.redact import redact_text
from lab.text import suggest

WITH_FACTS = "|".join(name for name, group in GROUPS.items() if group.facts)
MISSING_FACT = re.compile(
    rf"Interpolation key '(?P<group>{WITH_FACTS})\.(?P<key>\w+)' not found(?:\s+full_key: (?P<reader>\S+))?"
)

COMPOSED_LAST = ("search", "local", "debug", "experiment")  # groups after the experiment in conf/train.yaml


def explain(error: Exception, overrides: list[str]) -> str:
    """The message of a composition error, with a hint on what to type.  overrides: overrides of the command line."""
    text = readable_error(error)
    if isinstance(error, OverrideParseException):
        quote = "quote a value with spaces, brackets, commas or letters beyond ASCII: 'key=\"value\"'"
        return f"cannot read the override {redact_text(str(error.override))!r}: {text.splitlines()[1]}; {quote}"
    if match := re.search(r"Could not find '([^']+)'", text):
        path = match[1]
        group, _, option = path.partition("/") if path.startswith("experiment/") else path.rpartition("/")
        lines = text.partition("Available options in")[2].splitlines()[1:]
        known = [line.strip() for line in lines if line.startswith("\t") and "," not in line]
        return f"no option {option!r} in the group {group!r}; {suggest(option, known)}"
    if match := re.search(r"In '([^']+)': Could not override '([^'@]+)[^']*'", text):
        return explain_defaults_override(*match.groups())
    if match := re.search(r"Multiple values for ([^.@]+)\S*\. To override a value use 'override [^:]+: ([^']+)'", text):
        group, option = match.groups()
        if f"+{group}={option}" in overrides:
            return f"{group} has an option already; give {group}={option}, without the +"
        if group in COMPOSED_LAST:
            return f"{group} is chosen on the command line, not in a defaults list: {group}=..."
        return f"{group} is chosen twice in the defaults lists; write the second as: override /{group}: {option}"
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        full_key = re.search(r"full_key: (\S+)", text)
        key = full_key[1] if full_key else match[1] or match[2]
        return f"no key {key!r}; {suggest_key(key, overrides)}"
    if "Incompatible key type" in text:
        return f"{text.splitlines()[0]}: a key of a YAML is null; give it a name, or quote it: 'null'"
    return text


def explain_defaults_override(config: str, group: str) -> str:
    """The message for an `override /group: ...` in the defaults list of `config` that matches nothing."""
    if group in COMPOSED_LAST:
        return (
            f"{config} cannot choose an option of {group}, which is composed after it; give {group}=... on the command "
            f"line, or write the option's keys into {config}"
        )
    return f"{config}: no group {group!r} to override; {suggest(group, GROUPS)}"


def suggest_key(key: str, overrides: list[str]) -> str:
    """A hint with the existing key nearest to `key`, in the config that the other overrides compose."""
    choices = [o for o in overrides if "." not in override_key(o) and not o.startswith((key, "hydra"))]
    for others in (choices, []):
        try:
            is_running = GlobalHydra.instance().is_initialized()
            with nullcontext() if is_running else initialize_config_module("lab.conf", version_base="1.3"):
                config = compose("train", overrides=others)
        except Exception:  # the other overrides are invalid too: suggest a key of the default config
            continue
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if not OmegaConf.is_dict(node):
            return suggest(key, dotted_keys(config))
        names = [str(name) for name in node if not str(name).startswith("_")]
        if parent:
            return suggest(last, names, prefix=f"{parent}.")
        return suggest(last, [*names, "experiment", "debug", "local"])
    return "lab train --cfg job shows all keys"


def dotted_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """The dotted path of every key, including those of nodes."""
    for name in config:
        yield f"{prefix}{name}"
        if OmegaConf.is_dict(config._get_node(name)):
            yield from dotted_keys(config[name], f"{prefix}{name}.")


def readable_error(error: BaseException) -> str:
    """The useful part of the messages of an error and its causes: lab's own message where there is one, else those of
    Hydra and OmegaConf, without the lines that only locate the error inside OmegaConf."""
    messages: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigError | OSError):
            return str(cause)
        if str(cause) not in "\n".join(messages):
            messages.append(str(cause).strip())
        cause = cause.__cause__ or cause.__context__
    noise = ("object_type=", "reference_type=")
    if match := MISSING_FACT.search("\n".join(messages)):
        group, key, facts = match["group"], match["key"], ", ".join(GROUPS[match["group"]].facts)
        return (
            f"{match['reader'] or 'the config'} reads {group}.{key}, which the chosen {group} does not tell; write "
            f"`{key}: ...` into its YAML, or give +{group}.{key}=...; a fact ({facts}) need not be an argument of its "
            "callable"
        )
    return "\n".join(line for text in messages for line in text.splitlines() if not line.strip().startswith(noise))
