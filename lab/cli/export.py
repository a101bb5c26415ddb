"""lab export: a finished run's model as a folder that other programs load."""

import argparse
from pathlib import Path

from lab.cli.arguments import RUN_HELP, command_parser, parse_arguments, read_run
from lab.errors import ConfigError

EPILOG = """  lab export RUN FOLDER

The folder has config.json, model.safetensors and the tokenizer; from_pretrained of transformers loads it. What LoRA,
DoRA or QLoRA changed is merged into the weights.
"""


def main(arguments: list[str]) -> int:
    parser = export_parser()
    options = parse_arguments(parser, arguments)
    if options.folder.exists() and any(options.folder.iterdir()):
        raise ConfigError(f"{options.folder} is not empty; give another folder")
    saved = read_run(options.run, options.outputs)

    from lab.assembly.blame import blame
    from lab.assembly.predictor import load_without_data
    from lab.models.export import save_huggingface

    run, model = load_without_data(saved)
    with blame("export"):
        save_huggingface(model, options.folder)
    for name, content in getattr(getattr(run.data, "reader", run.data), "files", {}).items():
        if name.endswith("tokenizer.json"):
            (options.folder / name).write_bytes(content)
    print(f"{options.folder} holds the model; transformers' from_pretrained loads it")
    return 0


def export_parser() -> argparse.ArgumentParser:
    parser = command_parser("export", "A finished run's model as a folder that transformers loads.", EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder")
    return parser
