"""lab adapter: what a run with lora or dora trained, in a folder that Hugging Face's peft reads."""

import argparse
import sys
from pathlib import Path

from lab.build.final_model import load_finished_run
from lab.cli.output import print_missing
from lab.cli.show import find
from lab.errors import ConfigError
from lab.runs.diff import read_config


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "lab adapter", description="Write a finished run's LoRA or DoRA as peft's adapter."
    )
    parser.add_argument("run", type=Path, help="a run's directory, or the 8 characters of its id")
    parser.add_argument("folder", type=Path, help="where to write adapter_config.json and adapter_model.safetensors")
    given = parser.parse_args(arguments)
    directory = find(given.run)
    if directory is None:
        return print_missing(given.run, "no run", "lab ls lists them")
    try:
        write_adapter(directory, given.folder)
    except ConfigError as error:
        for problem in error.problems:
            print(f"lab: {problem}", file=sys.stderr)
        return 2
    print(f"{given.folder}: peft reads it, and finetune_strategy.adapter")
    return 0


def write_adapter(directory: Path, folder: Path) -> None:
    """Write the adapter of the run's final weights. Raises ConfigError where it has none that peft could read."""
    run, model = load_finished_run(directory)
    from lab.build.build import attempt
    from lab.finetune.peft import save_adapter

    if model is not run.model:  # an average of it, frozen whole, does not tell what was trained
        run.model.load_state_dict(model.state_dict())
    node = read_config(directory)["model"]
    base = node.get("name") if node.get("weights") == "DEFAULT" else node.get("weights")
    attempt(str(directory), lambda: save_adapter(run.model, folder, base))
