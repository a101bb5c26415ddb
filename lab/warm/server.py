"""The warm process: it has imported what the commands import, listens to its own user, and does nothing but fork.

For each command it forks a keeper, which forks the process that does the command, passes on to it what happens to the
client, and tells the client how it ended. Neither needs the warm process any more.
"""

import fcntl
import gc
import importlib
import os
import pkgutil
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lab.errors import EXIT_INTERRUPTED
from lab.execution.child_process import process_stat
from lab.interpreter import collect_rarely
from lab.user_cache import file_stamp
from lab.warm.address import peer, process_facts, warm_address
from lab.warm.forked import enter, fork_orphan, set_handlers, show_command
from lab.warm.interpreters import make_interpreters, run_code
from lab.warm.messages import receive_request

IDLE_LIMIT = 30 * 60.0  # seconds after which it ends by itself
CHECK_EVERY = 20.0  # seconds between two looks at whether its user is still here
LOOK_EVERY = 0.1  # seconds between two looks at whether the client is stopped
PATIENCE = 5.0  # seconds that a client may take to say what it wants
TITLE_BYTES = 2000  # room for the arguments that /proc shows of a command
# what the commands import beside lab's own modules, which are all imported
HEAVY_MODULES = (
    *("torch._dynamo", "torch.distributed.run", "torch.distributed.fsdp", "torchvision", "hydra.main"),
    *("hydra._internal.hydra", "rich.progress", "optuna", "optuna.storages", "multiprocessing.forkserver"),
    *("tensorboard.summary.writer.event_file_writer", "tensorboard.plugins.hparams.summary_v2"),
    "tabulate",  # torch._dynamo imports it at exit, after which the interpreter no longer tells that a signal ended it
)


@dataclass
class Imported:
    """What importing has changed.

    variables: those that it has set in the environment.  path: paths of modules, with those that lab has added.
    stamps: time (ns), size and number of each file that was read, and of the folders of installed packages.
    """

    variables: dict[str, str] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)
    stamps: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def all(cls) -> "Imported":
        """Import all that the commands import, and make this process fit to be forked."""
        import lab
        from lab.config.standalone import compose_beforehand

        before = dict(os.environ)
        folders = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        stamps = {path: file_stamp(path) for path in [*folders, sys.executable, f"{sys.prefix}/pyvenv.cfg"]}
        modules = [module.name for module in pkgutil.walk_packages(lab.__path__, "lab.")]
        for name in (*HEAVY_MODULES, *modules):
            if "__main__" not in name and "plugins" not in name:
                with suppress(ImportError):  # optional
                    importlib.import_module(name)
        compose_beforehand()
        variables = {name: value for name, value in os.environ.items() if before.get(name) != value}
        files = [str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())]
        stamps |= {file: file_stamp(file) for file in files if os.path.isabs(file)}
        gc.collect()
        gc.freeze()  # a collection would copy pages that all forks share
        if not (child := os.fork()):  # which ends the threads of OpenBLAS; they come back where they are used
            os._exit(0)
        os.waitpid(child, 0)
        assert len(os.listdir("/proc/self/task")) == 1, "only a process of one thread can be forked"
        return cls(variables, list(sys.path), stamps)

    def changed(self) -> str:
        """A file that is no longer as it was imported; empty where there is none."""
        return next((file for file, before in self.stamps.items() if file_stamp(file) != before), "")


def serve(command: Callable[[], object]) -> None:
    """Be the warm process, until it is not needed any more; and, in its forks, do a command.

    command: function that does the command of sys.argv.
    """
    address = warm_address()
    lock = open(address.with_suffix(".lock"), "wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # there is one
    collect_rarely()
    had_terminal = user_has_terminal()
    imported = Imported.all()
    with suppress(FileNotFoundError):
        address.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(address))
    listener.listen(50)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = wait_for_client(listener, address, imported, had_terminal)
    listener.close()
    lock.close()
    if channel is None:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    do_command(channel, imported, command)


def wait_for_client(
    listener: socket.socket, address: Path, imported: Imported, had_terminal: bool
) -> socket.socket | None:
    """Fork a keeper for each client. Gives the client's channel in the keeper; None at the end of this process."""
    inode, used = address.stat().st_ino, time.monotonic()
    while True:
        if not select.select([listener], [], [], min(CHECK_EVERY, IDLE_LIMIT))[0]:
            if not address.exists() or address.stat().st_ino != inode:
                return None  # the user has logged out, which removes the folder, or another one has its place
            if time.monotonic() - used > IDLE_LIMIT or (had_terminal and not user_has_terminal()):
                break
            continue
        channel, _ = listener.accept()
        with channel, suppress(OSError):  # another user, or one that has gone
            peer(channel)
            if changed := imported.changed():
                address.unlink()
                channel.send(f"{changed} changed since the warm process has started; lab warm starts another".encode())
                return None
            used = time.monotonic()
            if not fork_orphan():
                return channel.dup()
    address.unlink()
    return None


def user_has_terminal() -> bool:
    """Whether a process of this user has a terminal, as each does that was started from a shell."""
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with suppress(OSError):  # it has just ended
                if entry.stat().st_uid == os.geteuid() and int(process_stat(entry.name)[4]):
                    return True
    return False


def do_command(channel: socket.socket, imported: Imported, command: Callable[[], object]) -> None:
    """The keeper of a command; in its fork, the command."""
    os.setsid()
    channel.settimeout(PATIENCE)
    worker = 0
    try:
        channel.send(b"ready")
        request, files = receive_request(channel)
        refuse_what_differs(request, imported)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        worker = os.fork()
        if not worker:
            channel.close()
            ours.close()
            begin(request, files, theirs, imported)
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
            except KeyboardInterrupt:  # sent before it could begin
                sys.exit(EXIT_INTERRUPTED)
            command()
            return
        theirs.close()
        for number in files:  # who waits for the command's output to end need not wait for the keeper
            os.close(number)
        if (answer := ours.recv(1000)) != b"entered":
            raise OSError(answer.decode() or "its fork has ended")
        channel.send(str(worker).encode())
        if channel.recv(10) != b"go":
            raise EOFError
        ours.send(b"go")
    except (OSError, EOFError, LookupError, ValueError) as error:
        if worker:
            os.kill(worker, signal.SIGKILL)
        with suppress(OSError):
            channel.send(str(error).encode()[:900])
        os._exit(1)
    keep(channel, worker)


def refuse_what_differs(request: Mapping[str, Any], imported: Imported) -> None:
    """Raises ValueError where a new process would be another than a fork of this one can be."""
    for name, value in process_facts().items():
        if request["facts"][name] != value:
            raise ValueError(f"the warm process has another {name}: {value}, and not {request['facts'][name]}")
    if request["nice"] < os.getpriority(os.PRIO_PROCESS, 0) and os.geteuid():
        raise ValueError("the warm process is nicer")
    for number, (_, hard) in request["limits"].items():
        own = resource.getrlimit(int(number))[1]
        if os.geteuid() and own != resource.RLIM_INFINITY and (hard > own or hard == resource.RLIM_INFINITY):
            raise ValueError(f"the warm process has a lower limit (number {number})")
    for folder in dict.fromkeys([request["directory"], *request["path"]]):
        if folder not in imported.path and (name := shadowed_by(folder)):
            raise ValueError(f"{name} would be imported in place of what the warm process has imported")


def shadowed_by(folder: str) -> str:
    """A module in a folder that has the name of one that is imported from elsewhere; empty where there is none."""
    try:
        names = os.listdir(folder)
    except OSError:
        return ""
    for name in names:
        module = sys.modules.get(name.partition(".")[0])
        if module is None or name.startswith("__main__"):
            continue
        path = os.path.join(folder, name)
        file = os.path.join(path, "__init__.py") if os.path.isdir(path) else path
        is_module = os.path.isfile(file) and file.endswith((".py", ".so", ".pyc"))
        if is_module and not os.path.samefile(file, getattr(module, "__file__", None) or os.devnull):
            return path
    return ""


def begin(request: Mapping[str, Any], files: Sequence[int], keeper: socket.socket, imported: Imported) -> None:
    """Make this process what a new one would be, once the client says so."""
    above = max([*request["files"], *files, 2]) + 1
    link = socket.socket(fileno=fcntl.fcntl(keeper.detach(), fcntl.F_DUPFD_CLOEXEC, above))
    try:
        os.setpgid(0, 0)
        enter(request, files, link.fileno(), imported.variables, imported.path)
    except (OSError, ValueError) as error:
        link.send(str(error).encode()[:900])
        os._exit(1)
    link.send(b"entered")
    if link.recv(10) != b"go":
        os._exit(1)
    link.close()
    set_handlers(request["ignored"])
    if asked := make_interpreters():
        run_code(asked, imported.variables, imported.path)
        sys.exit()
    show_command(sys.orig_argv)


def keep(channel: socket.socket, worker: int) -> NoReturn:
    """Tell the client how the command ended. The command is stopped, goes on and is killed as the client is."""
    client, ended = peer(channel), os.pidfd_open(worker)
    stopped = False
    while True:
        ready = select.select([ended, channel], [], [], LOOK_EVERY)[0]
        if ended in ready:
            break
        if ready or (state := process_state(client)) in ("", "Z"):  # the client never sends more
            os.kill(worker, signal.SIGKILL)
            os.kill(worker, signal.SIGCONT)
            select.select([ended], [], [])
            break
        if (state == "T") != stopped:
            stopped = not stopped
            with suppress(ProcessLookupError):
                os.killpg(worker, signal.SIGSTOP if stopped else signal.SIGCONT)
    status = os.waitpid(worker, 0)[1]
    killed = os.WIFSIGNALED(status)
    with suppress(OSError):
        channel.send(f"killed {os.WTERMSIG(status)}".encode() if killed else f"ended {os.WEXITSTATUS(status)}".encode())
    os._exit(0)


def process_state(process: int) -> str:
    """The letter that the kernel gives; empty for a process that has ended."""
    with suppress(OSError):
        return process_stat(process)[0]
    return ""
