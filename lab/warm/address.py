"""Where the warm process of this interpreter, this environment and this user listens, and what a fork of it cannot
change."""

import hashlib
import os
import socket
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path

import lab
from lab.version import __version__

# variables that are read while modules are imported, or by the interpreter
READ_AT_START = (
    *("PYTHON", "LD_", "LC_", "LANG", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "NPY_"),
    *("CUDA_", "NVIDIA_", "NCCL_", "PYTORCH_", "TORCH", "TRITON_", "HF_", "TRANSFORMERS_", "MALLOC_", "GLIBC_"),
)
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
STATUS_LINES = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
PEER = struct.Struct("3i")  # process, user and group, as SO_PEERCRED gives them


def warm_address() -> Path:
    """The socket of the warm process that suits this one. Raises OSError where its folder is not private."""
    environment = sorted((name, value) for name, value in os.environ.items() if name.startswith(READ_AT_START))
    flags = [value for name, value in zip(dir_of_flags(), sys.flags, strict=False) if name != "safe_path"]
    parts = (
        os.path.realpath(sys.executable),
        sys.prefix,
        sys.version,
        flags,
        sorted(sys._xoptions.items()),
        sys.warnoptions,
    )
    key = repr((*parts, os.path.dirname(lab.__file__), __version__, environment))
    return private_folder() / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:16]}.sock"


def dir_of_flags() -> list[str]:
    """The names of sys.flags, in their order."""
    return list(type(sys.flags).__match_args__)


def private_folder() -> Path:
    """The folder of warm processes' sockets, which only this user may enter; made where it is not there."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "lab" if runtime and os.path.isdir(runtime) else Path(f"/tmp/lab-{os.geteuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or stat.S_IMODE(facts.st_mode) & 0o077:
        raise PermissionError(f"{folder} is not a private folder of this user")
    return folder


def peer(channel: socket.socket) -> int:
    """The process at the other end. Raises PermissionError where it is another user's."""
    process, user, _ = PEER.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
    if user != os.geteuid():
        raise PermissionError(f"process {process} is another user's")
    return process


def process_facts() -> dict[str, str]:
    """What a fork would have in common with the process that it is forked from: both must have the same."""
    facts = {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in STATUS_LINES:
            facts[name] = value.strip()
    facts["root"] = os.readlink("/proc/self/root")
    facts["oom"] = Path("/proc/self/oom_score_adj").read_text(encoding="utf-8").strip()
    facts["policy"] = str(os.sched_getscheduler(0))
    return facts


def control_group(process: str | int = "self") -> str:
    return Path(f"/proc/{process}/cgroup").read_text(encoding="utf-8")
