"""lab tag, lab note: words and a text on a run, outside of its identity."""

import argparse
from pathlib import Path

from lab.cli.arguments import RUN_HELP, parse_arguments, read_run
from lab.errors import ConfigError
from lab.ledger.marks import Marks, read_marks, write_marks


def tag(arguments: list[str]) -> int:
    description = (
        "Put words on a run, or take them off; lab ls --where tag=WORD finds it. `keep` protects it from lab gc."
    )
    parser = argparse.ArgumentParser("lab tag", description=description)
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    parser.add_argument("words", nargs="*", metavar="WORD", help="without any, the run's words are printed")
    parser.add_argument("--remove", action="store_true", help="take these words off")
    options = parse_arguments(parser, arguments)
    directory = read_run(options.run, options.outputs).directory
    if wrong := [word for word in options.words if not word.strip() or any(c in word for c in " ,\n\t=")]:
        raise ConfigError(f"a tag is one word without commas and =, not {wrong[0]!r}")
    marks = read_marks(directory)
    if options.words:
        others = [word for word in marks.tags if word not in options.words]
        marks = Marks(others if options.remove else [*others, *options.words], marks.note)
        write_marks(directory, marks)
    print(" ".join(sorted(marks.tags)))
    return 0


def note(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab note", description="Write a note on a run; lab show prints it.")
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    parser.add_argument("text", nargs="?", help="without it the note is printed; '' removes it")
    options = parse_arguments(parser, arguments)
    directory = read_run(options.run, options.outputs).directory
    marks = read_marks(directory)
    if options.text is not None:
        marks = Marks(marks.tags, options.text)
        write_marks(directory, marks)
    print(marks.note)
    return 0
