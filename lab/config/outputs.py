"""The outputs folder for commands that compose no config; it equals `paths.outputs` of a composed config."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from lab.errors import ConfigError, LabError
from lab.record.files import write_new
from lab.redact import redact_values

KEY = "paths.outputs="
MACHINE_SETTINGS = Path("conf/local/default.yaml")
PROJECT_PATHS = Path("conf/paths/default.yaml")


def split_outputs(arguments: list[str]) -> tuple[Path, list[str]]:
    """The outputs folder, and the arguments without `paths.outputs=`.

    The first of these that is set counts: paths.outputs= among the arguments, this machine's conf/local/default.yaml,
    the project's conf/paths/default.yaml, the environment variable LAB_OUTPUTS. The default is `outputs`.
    """
    rest = [argument for argument in arguments if not argument.startswith(KEY)]
    folders = [argument.removeprefix(KEY).strip("'\"") for argument in arguments if argument.startswith(KEY)]
    if folders:
        return Path(folders[-1]), rest
    for file in (MACHINE_SETTINGS, PROJECT_PATHS):
        if file.is_file() and (outputs := configured_outputs(file)):
            return Path(outputs), rest
    return Path(os.environ.get("LAB_OUTPUTS", "outputs")), rest


def keep_trace(error: LabError, outputs: Path) -> None:
    """Write the traceback of an error in the project's code to `outputs`/error.txt, and say so."""
    trace = error.trace if isinstance(error, ConfigError) else ""
    if not trace:
        return
    with suppress(OSError):
        outputs.mkdir(parents=True, exist_ok=True)
        write_new(outputs / "error.txt", redact_values(trace))
        print(f"lab: {outputs / 'error.txt'} has the traceback", file=sys.stderr)


def configured_outputs(file: Path) -> str | None:
    """The outputs folder that a YAML file of the group `local` or `paths` sets; None where it sets none."""
    text = file.read_text(encoding="utf-8")
    if "outputs" not in text:  # saves the time of importing OmegaConf
        return None
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        config = OmegaConf.create(text)
        key = "outputs" if file == PROJECT_PATHS else "paths.outputs"
        outputs = OmegaConf.select(config, key)  # resolves interpolations, such as ${oc.env:LAB_OUTPUTS,outputs}
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{file}: {str(error).splitlines()[0]}") from error
    return None if outputs is None else str(outputs)
