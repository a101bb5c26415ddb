"""The folder of runs and sweeps, for commands that compose no config: the same as `paths.outputs` of one that does."""

import os
from pathlib import Path

from lab.errors import ConfigError

KEY = "paths.outputs="
MACHINE_SETTINGS = Path("conf/local/default.yaml")
PROJECT_PATHS = Path("conf/paths/default.yaml")


def split_outputs(arguments: list[str]) -> tuple[Path, list[str]]:
    """The outputs folder, and the arguments without `paths.outputs=`.

    In this order: paths.outputs= among the arguments, this machine's conf/local/default.yaml, the project's
    conf/paths/default.yaml, LAB_OUTPUTS, `outputs`.
    """
    rest = [argument for argument in arguments if not argument.startswith(KEY)]
    given = [argument.removeprefix(KEY).strip("'\"") for argument in arguments if argument.startswith(KEY)]
    if given:
        return Path(given[-1]), rest
    for file in (MACHINE_SETTINGS, PROJECT_PATHS):
        if file.is_file() and (outputs := configured_outputs(file)):
            return Path(outputs), rest
    return Path(os.environ.get("LAB_OUTPUTS", "outputs")), rest


def configured_outputs(file: Path) -> str | None:
    """The outputs folder that a YAML file of the groups `local` or `paths` sets; None where it sets none."""
    text = file.read_text()
    if "outputs" not in text:  # spares the import
        return None
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        config = OmegaConf.create(text)
        key = "outputs" if file == PROJECT_PATHS else "paths.outputs"
        outputs = OmegaConf.select(config, key)  # with its interpolations, such as ${oc.env:LAB_OUTPUTS,outputs}
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{file}: {str(error).splitlines()[0]}") from error
    return None if outputs is None else str(outputs)
