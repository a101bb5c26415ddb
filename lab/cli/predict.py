"""lab predict: what a finished run says of new inputs."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lab.cli.arguments import RUN_HELP, command_parser, parse_arguments, read_run
from lab.data.text_table import read_lines
from lab.errors import ConfigError
from lab.text import printable

EPILOG = """The inputs are texts, or files of images and folders of them, as the run was trained on:

  lab predict RUN "a fine film" "a dull one"
  lab predict RUN --file reviews.txt --json > labels.jsonl       a text a line
  lab predict RUN photos/ cat.jpg --draw drawn                   with the boxes of a detector drawn
  cat sentences.en | lab predict RUN

The directory of the run is enough: the data set that it was trained on is not read.
"""


def main(arguments: list[str]) -> int:
    options = parse_arguments(predict_parser(), arguments)
    inputs = list(read_inputs(options))
    if not inputs:
        raise ConfigError("no input; give texts or images, --file FILE, or lines on standard input")
    saved = read_run(options.run, options.outputs)

    from lab.assembly.predictor import load_predictor

    predictor = load_predictor(saved)
    inputs = predictor.expand(inputs)
    files = name_pictures(inputs, options.draw) if options.draw else []
    for chunk in predictor.chunks(inputs):
        read = predictor.read(chunk)
        answers = predictor.answer(read)
        for given, answer in zip(chunk, answers, strict=True):
            if options.json:
                print(json.dumps({"input": given, **answer}, ensure_ascii=False), flush=True)
            else:
                print(answer_line(given, answer), flush=True)
        if options.draw:
            for picture in predictor.draw(read, answers):
                picture.save(files.pop(0))
    return 0


def name_pictures(inputs: list[str], folder: Path) -> list[Path]:
    """A PNG file in the folder for each input, named like it, with a number where two have one name. Makes the
    folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--draw: cannot make the folder {folder}: {error.strerror}") from error
    stems: list[str] = []
    for given in inputs:
        stem, number = Path(given).stem, 2
        while stem in stems:
            stem, number = f"{Path(given).stem}-{number}", number + 1
        stems.append(stem)
    return [folder / f"{stem}.png" for stem in stems]


def predict_parser() -> argparse.ArgumentParser:
    parser = command_parser("predict", "What a finished run says of new inputs.", EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="a text, or a file or folder of images")
    parser.add_argument("--file", type=Path, help="inputs, one a line")
    parser.add_argument(
        "--draw", type=Path, metavar="FOLDER", help="write pictures of the answers, such as boxes, there"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a line, with all probabilities")
    return parser


def read_inputs(options: argparse.Namespace) -> Iterator[str]:
    """The inputs of the command line, of the file, or of standard input where there are no others."""
    yield from options.inputs
    try:
        if options.file:
            yield from (line.rstrip("\r\n") for line in read_lines(options.file))
        elif not options.inputs and not sys.stdin.isatty():
            yield from (line.rstrip("\r\n") for line in sys.stdin)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def answer_line(given: str, answer: Mapping[str, Any]) -> str:
    """An answer for people: the input, and the answer's texts and numbers."""
    shown = [value for value in answer.values() if not isinstance(value, Mapping | list)]
    words = [f"{value:.4f}" if isinstance(value, float) else str(value) for value in shown]
    return printable("  ".join([given, *words]))
