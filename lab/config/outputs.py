"""The outputs folder for commands that compose no config; it equals `paths.outputs` of a composed config."""

import os
from pathlib import Path

from lab.errors import ConfigError

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


def configured_outputs(file: Path) -> str | None:
    """The outputs folder that a YAML file of the group `local` or `paths` sets; None where it sets none."""
    text = file.read_text()
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
