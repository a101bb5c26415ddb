"""python dying/again_and_again.py NUMBER OVERRIDES: NUMBER times, a run that dies at one of its touches of files, and
then the same command again, each time in a copy of the project. The deaths are spread from the first touch to the last.

Each command is a fork of one process that has imported torch. Prints, for each copy, the exit codes of the two commands
and the touch.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from sitecustomize import die_at

import lab.assembly.build
import lab.record.record
import lab.record.tensorboard
import lab.sweep.worker  # noqa: F401
from lab.cli.main import main


def run_command(project: Path, number: int) -> int:
    """The exit code of the command in a process of its own, which dies at its `number`-th touch; -1: at none."""
    child = os.fork()
    if not child:
        os.chdir(project)
        for handle in (1, 2):
            os.dup2(os.open(project / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), handle)
        deaths = die_at(number)
        code = 70
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            (project / "touches.json").write_text(json.dumps(deaths.seen))
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


number, sys.argv = int(sys.argv[1]), ["lab", "train", *sys.argv[2:]]
original = Path.cwd()
sys.path.pop(0)  # dying/


def copy_project(name: str) -> Path:
    ignored = shutil.ignore_patterns("outputs", "copies", "__pycache__")
    return Path(shutil.copytree(original, original / "copies" / name, ignore=ignored))


assert run_command(copy_project("whole"), -1) == 0
touches = json.loads((original / "copies" / "whole" / "touches.json").read_text())
deaths = sorted({round(1 + n * (len(touches) - 1) / (number - 1)) for n in range(number)})
for death in deaths:
    copy = copy_project(str(death))
    print(json.dumps([run_command(copy, death), run_command(copy, -1), *touches[death - 1]]), flush=True)
