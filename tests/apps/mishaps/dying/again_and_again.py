"""python dying/again_and_again.py NUMBER OVERRIDES: a run that dies at one of its touches of files, then the same
command; so often, each time in a copy of the project, in touch after touch from the first to the last.

Each is a fork of one process that has imported torch. Prints the exit codes of the two commands of each copy.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from sitecustomize import die_at

import lab.build.build
import lab.record.record
import lab.record.tensorboard
import lab.sweep.worker  # noqa: F401
from lab.cli.main import main


def command(place: Path, number: int) -> int:
    """The exit code of the command in a process of its own that dies at its `number`-th touch."""
    child = os.fork()
    if not child:
        os.chdir(place)
        for handle in (1, 2):
            os.dup2(os.open(place / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), handle)
        deaths = die_at(number)
        code = 70
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            (place / "touches.json").write_text(json.dumps(deaths.seen))
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


number, sys.argv = int(sys.argv[1]), ["lab", "train", *sys.argv[2:]]
project = Path.cwd()
sys.path.pop(0)  # dying/


def copy(name: str) -> Path:
    ignored = shutil.ignore_patterns("outputs", "copies", "__pycache__")
    return Path(shutil.copytree(project, project / "copies" / name, ignore=ignored))


assert command(copy("whole"), -1) == 0
touches = json.loads((project / "copies" / "whole" / "touches.json").read_text())
points = sorted({round(1 + n * (len(touches) - 1) / (number - 1)) for n in range(number)})
for point in points:
    place = copy(str(point))
    print(json.dumps([command(place, point), command(place, -1), *touches[point - 1]]), flush=True)
