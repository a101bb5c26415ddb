"""lab warm: keeps a process that has imported torch and lab, so that commands begin at once."""

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console

from lab.errors import ConfigError, LabError
from lab.warm.address import peer, warm_address
from lab.warm.client import Unsuitable, connect

START_LIMIT = 180.0  # seconds
CODE = "import lab.interpreter; from lab.cli.warm import serve_commands; serve_commands()"
DESCRIPTION = """Keep a process that has imported torch and lab. From then on the commands that need torch are forks of
it and begin at once, from any directory, with the same output and the same bits. It listens to this user alone, is not
used where it would differ (another Python, other packages, changed code, other OMP_, CUDA_ or PYTHON variables), and
ends after 30 idle minutes. LAB_WARM=0 does without it; LAB_WARM=why says why it was not used."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab warm", description=DESCRIPTION)
    parser.add_argument("--stop", action="store_true", help="end the process; commands that have begun go on")
    options = parser.parse_args(arguments)
    if sys.platform != "linux":
        raise ConfigError("lab warm needs Linux: elsewhere a process that has imported torch cannot be forked safely")
    if options.stop:
        print("stopped" if stop_warm() else "there is no warm process for this environment")
        return 0
    state = describe()
    if not state:
        began = time.monotonic()
        with Console(stderr=True).status("importing torch and lab"):
            start_warm()
        state = f"{describe()}, ready after {time.monotonic() - began:.1f} s"
    print(f"{state}; it ends after 30 idle minutes, or by lab warm --stop")
    return 0


def find() -> int | None:
    """The number of the warm process for this environment; None where there is none that can be used.

    One whose code or packages have changed ends when it is asked.
    """
    try:
        with connect() as channel:
            return peer(channel)
    except (OSError, Unsuitable):
        return None


def describe() -> str:
    """The warm process for this environment in words; empty where there is none."""
    process = find()
    if process is None:
        return ""
    folder = Path(f"/proc/{process}")
    began = datetime.fromtimestamp(folder.stat().st_mtime)
    return f"warm since {began:%H:%M}: process {process}"


def stop_warm() -> bool:
    """End the warm process. Gives whether there was one."""
    process = find()
    if process is None:
        return False
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(process, signal.SIGTERM)
        warm_address().unlink()
    return True


def start_warm() -> None:
    """Start the warm process and wait until it is ready. Raises LabError where it cannot start."""
    from lab.warm.server import TITLE_BYTES

    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [sys.executable, *flags, "-P", "-c", CODE, " " * TITLE_BYTES]
    with TemporaryFile() as errors:
        null = subprocess.DEVNULL
        process = subprocess.Popen(command, cwd="/", stdin=null, stdout=null, stderr=errors, start_new_session=True)
        deadline = time.monotonic() + START_LIMIT
        while find() is None:
            if process.poll() is not None or time.monotonic() > deadline:
                errors.seek(0)
                last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
                raise LabError(f"the warm process did not start: {' '.join(last) or process.returncode}")
            time.sleep(0.05)


def serve_commands() -> None:
    """The whole life of the warm process and, in its forks, a command."""
    from lab.cli.main import run
    from lab.warm.server import serve

    serve(run)
