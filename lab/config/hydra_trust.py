"""What Hydra's own node in a config may name. Hydra makes the objects in it before lab sees the config, so it is judged
as soon as it is composed: plugins, callbacks, logging, environment variables and the search path. SECURITY.md has the
rule."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import hydra._internal.hydra as hydra_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.config.annotations import NodeKinds
from lab.config.groups import SEARCH_GROUPS
from lab.config.hydra_files import read_files_once
from lab.config.trust import is_project_path, locate_trusted
from lab.errors import ConfigError
from lab.interpreter import raise_lost_interrupt

MADE_NODES = ("callbacks", "sweeper", "launcher")  # Hydra makes the objects of these
LOGGING_NODES = ("job_logging", "hydra_logging")
PLUGINS = ("hydra_plugins", "hydra._internal.core_plugins", "hydra.experimental.callbacks", "hydra.experimental.pickle")
LOGGING_CLASSES = (
    *("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter"),
    *("logging.handlers.RotatingFileHandler", "logging.handlers.TimedRotatingFileHandler"),
    *("rich.logging.RichHandler", "colorlog.ColoredFormatter", "colorlog.StreamHandler"),
)
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
LOGGING_TEXTS = ("filename", "format", "fmt", "datefmt", "level")  # keys whose text may hold interpolations
LOG_FILE = re.compile(r"\$\{hydra[.:](runtime\.output_dir|run\.dir|sweep\.dir)\}/(?!.*\.\./)")
# variables by which programs find the code and the caches that they load
PROGRAM_VARIABLES = re.compile(
    r"PATH|HOME|ENV|BASH_ENV|SHELL|IFS|CC|CXX|TMPDIR|EDITOR|PAGER|(LD|DYLD|PYTHON|GIT|SSH|SSL|XDG|HF|HYDRA|LAB|MKL|NCCL_\w*PLUGIN)_?\w*"
    r"|(TORCH|TRITON|CUDA|TRANSFORMERS|HUGGINGFACE)\w*(HOME|DIR|CACHE|PATH|BACKEND)\w*|TORCH(INDUCTOR|DYNAMO)\w*",
    re.IGNORECASE,
)
HARMLESS_VARIABLES = re.compile(r"MKL_\w*THREADS|PYTHONHASHSEED|PYTHONWARNINGS", re.IGNORECASE)
# an interpolation that cannot be resolved yet must be a plain mention of a value, which is text
PLAIN_MENTION = re.compile(r"\$\{(hydra:)?[\w.]+\}|\$\{lab\.\w+:\}")


class TrustedLoader(ConfigLoaderImpl):
    """Hydra's config loader, which refuses a config whose node `hydra` names code that a config may not name."""

    @property
    def loads_lab(self) -> bool:
        """Whether this application is lab's: the caller of lab.compose may have one of its own."""
        return any(path.path == "pkg://lab.conf" for path in self.config_search_path.get_path())

    first: tuple[RunMode, str | None, list[str], DictConfig] | None = None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """As Hydra's, but once: Hydra composes a config first to read its mode, and then again with that mode."""
        first, self.first = self.first, None
        mode = f"hydra.mode={run_mode.name}"
        if first and (run_mode, config_name, overrides) == (*first[:2], [*first[2], mode]):
            config = first[3]
            config.hydra.mode = run_mode
            config.hydra.overrides.hydra.append(mode)
            return config
        for likely_mode in () if validate_sweep_overrides else RunMode:  # what is composed to read the mode
            with suppress(HydraException, OmegaConfBaseException):
                config = self.load_configuration(config_name, overrides, likely_mode, from_shell)
                self.first = likely_mode, config_name, list(overrides), config
                return config
            raise_lost_interrupt()  # OmegaConf makes an error of its own of it
        return super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)

    def _load_configuration_impl(self, *arguments: Any, **named: Any) -> DictConfig:
        """What all ways to compose end in; Hydra 1.4 has more of them than 1.3."""
        config = super()._load_configuration_impl(*arguments, **named)
        if self.loads_lab:
            check_hydra_node(config)
        return config

    def load_sweep_config(self, *arguments: Any, **named: Any) -> DictConfig:
        config = super().load_sweep_config(*arguments, **named)
        if self.loads_lab:
            check_hydra_node(config)
        return config

    def _process_config_searchpath(self, config_name: str | None, parsed_overrides: Any, repo: Any) -> None:
        typed = any(override.get_key_element() == "hydra.searchpath" for override in parsed_overrides)
        loaded = repo.load_config(config_path=config_name) if config_name and self.loads_lab and not typed else None
        for path in OmegaConf.select(loaded.config, "hydra.searchpath", default=()) or () if loaded else ():
            module = str(path).removeprefix("pkg://")
            if "://" in str(path) and not str(path).startswith("file://") and not is_project_path(module):
                raise ConfigError(
                    f"hydra.searchpath: {path} in {config_name}.yaml is not in the working directory, and looking "
                    f"there would import it; give it on the command line: 'hydra.searchpath=[{path}]'"
                )
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


def use_trusted_loader() -> None:
    """Have Hydra load configs by TrustedLoader, and their files by `load_config_once`, from now on."""
    if not hasattr(ConfigLoaderImpl, "_load_configuration_impl"):
        raise ConfigError("lab cannot judge what this version of Hydra composes; pip install 'hydra-core<1.5'")
    hydra_module.ConfigLoaderImpl = TrustedLoader  # pyright: ignore[reportPrivateImportUsage]
    read_files_once()


def check_hydra_node(root: DictConfig) -> None:
    """Raises ConfigError for whatever Hydra's node may not name.  root: a composed config with the node `hydra`."""
    node = OmegaConf.to_container(root, resolve=False)
    hydra = node.get("hydra") if isinstance(node, dict) else None
    if not isinstance(hydra, dict):
        return
    problems = list(job_problems(hydra.get("job")))
    for name in MADE_NODES:
        for path, value in walk(hydra.get(name), f"hydra.{name}"):
            for part_path, part in walk(resolve_part(root, path, value), path) if is_open(value) else [(path, value)]:
                problems += made_problems(part_path, part)
    for name in LOGGING_NODES:
        for path, value in walk(hydra.get(name), f"hydra.{name}"):
            problems += logging_problems(path, value)
    if problems:
        raise ConfigError(*problems)


def walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value in a nest that is no mapping or list, with its dotted path."""
    if isinstance(value, Mapping | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from walk(part, f"{path}.{key}")
    else:
        yield path, value


def is_open(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def resolve_part(root: DictConfig, path: str, text: str) -> Any:
    """What an interpolation in Hydra's node gives. Raises ConfigError where that cannot be told before Hydra reads it.

    path: dotted path of the value.  text: the interpolation.
    """
    try:
        value = OmegaConf.select(root, path)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException:
        if "${" in PLAIN_MENTION.sub("", text):
            raise ConfigError(f"{path}: {text} cannot be resolved before Hydra reads it; write its value") from None
        return None


def made_problems(path: str, value: Any) -> Iterator[str]:
    """Problems of a value in a node of which Hydra makes an object."""
    if isinstance(value, str) and "${" in value:
        yield f"{path} holds the text '${{' after all interpolations are resolved; write the value itself"
    if path.rpartition(".")[2] != "_target_":
        return
    target = str(value)
    if any(target.startswith(f"{package}.") for package in PLUGINS) or is_project_path(target):
        return
    for group in SEARCH_GROUPS.values():  # of Hydra's Optuna sweeper
        try:
            locate_trusted(target, group, NodeKinds((), is_open=True))
            return
        except ConfigError:
            continue
    yield (
        f"{path}: {target} is not one to be run from a config: it must be a plugin of Hydra's, or lie in the working "
        "directory"
    )


def logging_problems(path: str, value: Any) -> Iterator[str]:
    """Problems of a value in a node that Python's logging reads."""
    key, text = path.rpartition(".")[2], str(value)
    if key in ("class", "()") and text not in LOGGING_CLASSES and not is_project_path(text):
        yield f"{path}: {text} is not one to be run from a config; there is: {', '.join(LOGGING_CLASSES)}"
    elif (text.startswith("ext://") and text not in STREAMS) or text.startswith("cfg://"):
        yield f"{path}: {text} is not one to be read from a config; there is: {', '.join(STREAMS)}"
    elif key == "filename" and not LOG_FILE.match(text):
        yield f"{path}: {text} must be a file in the run's directory: ${{hydra.runtime.output_dir}}/NAME.log"
    elif "${" in text and key not in LOGGING_TEXTS:
        yield f"{path}: {text} must not hold an interpolation; write its value"


def job_problems(job: Any) -> Iterator[str]:
    """Problems of the node `hydra.job`: names of environment variables, and the name of the log file."""
    if not isinstance(job, Mapping):
        return
    if "/" in str(job.get("name") or ""):
        yield f"hydra.job.name={job['name']} must be a name, not a path"
    settings = job.get("env_set") or {}
    for name in settings if isinstance(settings, Mapping) else [str(settings)]:
        if PROGRAM_VARIABLES.fullmatch(str(name)) and not HARMLESS_VARIABLES.fullmatch(str(name)):
            yield (
                f"hydra.job.env_set.{name}: a config must not set it, since programs find their code by it; set it in "
                f"the shell: {name}=... lab ..."
            )
        elif "${" in str(name):
            yield f"hydra.job.env_set: {name} must not be an interpolation; write names and values"


def check_saved_job(hydra: Mapping[str, Any]) -> None:
    """Raises ConfigError for what the node `hydra` of a run or a plan on disk may not set."""
    if problems := list(job_problems(hydra.get("job"))):
        raise ConfigError(*problems)
