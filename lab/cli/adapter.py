"""lab adapter: writes the LoRA or DoRA of a run to a folder that Hugging Face's peft reads."""

import argparse
from pathlib import Path

from lab.cli.arguments import RUN_HELP, parse_arguments, read_run
from lab.ledger.saved_run import SavedRun


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "lab adapter", description="Write a finished run's LoRA or DoRA as peft's adapter."
    )
    parser.add_argument("run", type=Path, help=RUN_HELP)
    parser.add_argument("folder", type=Path, help="where to write adapter_config.json and adapter_model.safetensors")
    options = parse_arguments(parser, arguments)
    write_adapter(read_run(options.run, options.outputs), options.folder)
    print(f"{options.folder}: peft reads it, and finetune_strategy.adapter")
    return 0


def write_adapter(saved: SavedRun, folder: Path) -> None:
    """Write the adapter of the run's final weights. Raises ConfigError where it has none that peft can read."""
    from lab.assembly.blame import blame
    from lab.assembly.final_model import load_finished_run
    from lab.finetune.peft import save_adapter

    run, model = load_finished_run(saved)
    if model is not run.model:  # an average: all of it is frozen, so only run.model tells which parameters were trained
        run.model.load_state_dict(model.state_dict())
    node = saved.config["model"]
    base = node.get("name") if node.get("weights") == "DEFAULT" else node.get("weights")
    with blame(str(saved.directory)):
        save_adapter(run.model, folder, base)
