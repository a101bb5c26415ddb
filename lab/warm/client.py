"""The side of a command that the warm process does: it hands over all that makes a process what it is, stands for the
process that does the command, and ends as that one ends. Its imports are few, since each command pays for them."""

import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import NoReturn

from lab.warm.address import control_group, peer, process_facts, warm_address
from lab.warm.messages import ask, ignored_signals

PATIENCE = 5.0  # seconds that the warm process may take to answer, before the command is done without it
MOST_FILES = 240  # open files that one message can hand over
FORWARDED = {
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGALRM, signal.SIGWINCH),
}


class Unsuitable(Exception):
    """Why the warm process cannot do this command."""


def hand_over(arguments: Sequence[str]) -> str:
    """Have the warm process do the command `lab ARGUMENTS`, and end as it ends. Returns where it is not used: why."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    channel = None
    try:
        channel = connect()
        worker = start_fork(channel, arguments, before)
    except (OSError, ValueError, KeyError, Unsuitable) as error:
        if channel:
            channel.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return str(error)
    stand_for(channel, worker)


def connect() -> socket.socket:
    """A channel to the warm process. Raises FileNotFoundError where there is none, Unsuitable where it is outdated."""
    address = warm_address()
    if not address.exists():
        raise FileNotFoundError("there is no warm process for this environment; lab warm starts one")
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        channel.settimeout(PATIENCE)
        channel.connect(str(address))
        peer(channel)
        answer = channel.recv(1000).decode()
        if answer != "ready":
            raise Unsuitable(answer or "the warm process has just ended")
        return channel
    except BaseException:
        channel.close()
        raise


def start_fork(channel: socket.socket, arguments: Sequence[str], before: Collection[int]) -> int:
    """Start the command in a fork of the warm process. Gives its number.  before: signals that are blocked here."""
    files = open_files(without=channel.fileno())
    request = {
        "executable": sys.executable,
        "arguments": [sys.argv[0], *arguments],
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "path": sys.path,
        "files": files,
        "blocked": sorted(before),
        "ignored": ignored_signals(),
        "umask": read_umask(),
        "limits": {number: resource.getrlimit(number) for number in limits()},
        "cores": sorted(os.sched_getaffinity(0)),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "group": control_group(),
        "facts": process_facts(),
    }
    answer = ask(channel, request, files).decode()
    if not answer.isdecimal():
        raise Unsuitable(answer or "the warm process has just ended")
    channel.send(b"go")  # only now does it begin: not if this process has given up meanwhile
    return int(answer)


def open_files(without: int) -> list[int]:
    files = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            os.fstat(int(name))
            files.append(int(name))
    files.remove(without)
    if len(files) > MOST_FILES:
        raise Unsuitable(f"{len(files)} files are open, and {MOST_FILES} can be handed over")
    return files


def read_umask() -> int:
    os.umask(umask := os.umask(0o077))  # it can only be read by setting it
    return umask


def limits() -> list[int]:
    return sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})


def stand_for(channel: socket.socket, worker: int) -> NoReturn:
    """Pass signals on to the process that does the command, until it ends; then end in the same way."""
    threading.Thread(target=forward_signals, args=(worker,), daemon=True).start()
    channel.settimeout(None)
    how, _, number = channel.recv(100).decode().partition(" ")
    if how == "killed":
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(int(number), signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {int(number)})
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), int(number))
    if how != "ended":
        print("lab: the process that does this command is lost", file=sys.stderr, flush=True)
    os._exit(int(number) if how == "ended" else 1)


def forward_signals(worker: int) -> None:
    """Those that the terminal sends to a whole group of processes go to the command's group, others to it alone."""
    while True:
        received = signal.sigwaitinfo(FORWARDED)
        with suppress(ProcessLookupError):
            if received.si_code > 0:  # of the kernel
                os.killpg(worker, received.si_signo)
            else:
                os.kill(worker, received.si_signo)
