"""The warm process: its forks are as new processes in all that a user can see, and it is not used where they would not
be."""

import hashlib
import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.user_cache import file_stamp
from lab.warm import server
from lab.warm.address import private_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a warm process needs Linux")
PATIENCE = 30  # seconds
STARTED = []  # processes of the test that runs
SHORT = ("model=mlp", "hardware=cpu")
# a model of the project that writes what it finds in its process
CURIOUS = """
import json, os, resource, signal, sys
from torch import nn
import lab_project_note

class Curious(nn.Sequential):
    def __init__(self, input_shape=(1, 8, 8), classes=10, **_):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))
        os.umask(umask := os.umask(0))
        facts = {
            "variable": os.environ.get("MY_VARIABLE"), "directory": os.getcwd(), "umask": umask,
            "files": resource.getrlimit(resource.RLIMIT_NOFILE), "cores": sorted(os.sched_getaffinity(0)),
            "nice": os.getpriority(os.PRIO_PROCESS, 0), "ignored": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
            "argv": sys.argv[1:], "executable": sys.executable, "note": lab_project_note.NOTE, "path": sys.path[0],
            "extra": os.read(int(os.environ["EXTRA"]), 100).decode(),
            "open": sorted(int(n) for n in os.listdir("/proc/self/fd")),
            "tty": [s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)], "lines": sys.stdout.line_buffering,
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        }
        open(os.environ["FACTS"], "w").write(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The environment of a warm process of these tests alone, which ends with them."""
    folder = tmp_path_factory.mktemp("home")
    folder.chmod(0o700)
    packages = folder / "site-packages"
    packages.mkdir()
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "PYTHONPATH": str(packages), "LAB_WARM": "why"}
    yield environment
    command(environment, "warm", "--stop", cwd=folder)


@pytest.fixture(scope="module")
def warm(home):
    ended = command(home, "warm", cwd=home["XDG_RUNTIME_DIR"])
    assert ended.returncode == 0, ended
    assert "warm since" in ended.stdout
    return home


def start(environment, *arguments, cwd, **options):
    """As a user does: a new interpreter."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    words = [sys.executable, "-m", "lab", *arguments]
    STARTED.append(subprocess.Popen(words, cwd=cwd, env=environment, text=True, **{**streams, **options}))
    return STARTED[-1]


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    while STARTED:
        STARTED.pop().kill()


def command(environment, *arguments, cwd, **options):
    process = start(environment, *arguments, cwd=cwd, **options)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def cold(environment):
    return {**environment, "LAB_WARM": "0"}


def hashes(folder):
    """The content of the files that a run's bits decide."""
    names = ("metrics.jsonl", "results.json", "best.pt", "last.pt", "predictions.parquet")
    files = sorted(path for path in Path(folder).rglob("*") if path.name in names and path.is_file())
    timeless = {}
    for path in files:
        content = path.read_bytes()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in content.splitlines()]
            content = json.dumps([{k: v for k, v in line.items() if not is_timed(k)} for line in lines]).encode()
        if path.name == "results.json":
            content = json.dumps({k: v for k, v in json.loads(content).items() if not is_timed(k)}).encode()
        timeless[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return timeless


def is_timed(key):
    return key in ("time", "seconds") or key.startswith("hardware/") or "per_second" in key


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return value


def worker_of(outputs):
    """The process that does the run, by its directory's lock and the arguments that it shows."""

    def look():
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                is_keeper = b"serve_commands" in Path(f"/proc/{parent}/cmdline").read_bytes()
            except OSError:
                continue
            if f"paths.outputs={outputs}".encode() in words and is_keeper:
                return int(entry.name)
        return None

    return wait_until(look, "the run has a process")


def state_of(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def steps_in(outputs):
    lines = [line for path in Path(outputs).rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def long_run(warm, tmp_path, **options):
    arguments = (
        "train",
        *SHORT,
        "steps=1000000",
        "eval_every=1000000",
        "log_every=10",
        f"paths.outputs={tmp_path / 'out'}",
    )
    process = start(warm, *arguments, cwd=tmp_path, **options)
    wait_until(lambda: steps_in(tmp_path / "out"), "it trains")
    return process, worker_of(tmp_path / "out")


@pytest.mark.slow
def test_a_run_and_a_sweep_have_the_same_bits_output_and_exit_code(warm, tmp_path):
    for name, arguments in {
        "run": ("train", *SHORT, "steps=20"),
        "sweep": ("train", "-m", *SHORT, "steps=5", "seed=0,1"),
        "wrong": ("train", "model=mlpp"),
    }.items():
        ended = []
        for environment in (warm, cold(warm)):
            folder = tmp_path / name / environment["LAB_WARM"]
            folder.mkdir(parents=True)
            ended.append((command(environment, *arguments, cwd=folder), hashes(folder)))
        (first, bits), (second, same_bits) = ended
        assert "not warm" not in first.stderr, first.stderr
        assert first.returncode == second.returncode
        assert bits == same_bits
        assert bits or name == "wrong"
        assert len(first.stdout.splitlines()) == len(second.stdout.splitlines())
        if name == "run":
            assert first.stdout == second.stdout


@pytest.mark.slow
def test_it_has_all_that_a_new_process_has_and_sees_the_project_as_it_is(warm, tmp_path):
    (tmp_path / "curious.py").write_text(CURIOUS)
    facts = []
    for environment, note in ((warm, 1), (cold(warm), 1), (warm, 2)):
        (tmp_path / "lab_project_note.py").write_text(f"NOTE = {note}\n")
        read, write = os.pipe()
        os.write(write, b"through a pipe")
        os.close(write)

        def enter():
            os.umask(0o027)
            os.nice(3)
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

        variables = {"MY_VARIABLE": "ä\udcff", "FACTS": str(tmp_path / "facts.json"), "EXTRA": str(read)}
        ended = command(
            {**environment, **variables},
            *("train", "model=mlp", "model._target_=curious.Curious", "~model.hidden", "hardware=cpu", "steps=2"),
            f"paths.outputs={tmp_path / 'out' / str(len(facts))}",
            cwd=tmp_path,
            preexec_fn=enter,
            pass_fds=[read],
        )
        os.close(read)
        assert ended.returncode == 0, ended
        assert "not warm" not in ended.stderr
        facts.append(json.loads((tmp_path / "facts.json").read_text()))
    for fact in facts:
        fact["argv"].pop()
        fact.pop("open")
    assert facts[0] == facts[1]
    assert facts[0]["nice"] == os.getpriority(os.PRIO_PROCESS, 0) + 3
    assert facts[2] == {**facts[0], "note": 2}, "the project's module is imported anew"
    assert len({path.name for path in (tmp_path / "out").rglob("*-????????")}) == 2, "the changed code is another run"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_command_ends_it_as_it_ends_a_new_process(number, warm, tmp_path):
    process, worker = long_run(warm, tmp_path)
    process.send_signal(number)
    assert process.wait(PATIENCE) == (130 if number == signal.SIGINT else 75)
    assert "the same command goes on" in process.stderr.read() + process.stdout.read()
    assert state_of(worker) == ""
    (status,) = (tmp_path / "out").rglob("status.json")
    assert json.loads(status.read_text())["state"] == "interrupted"


@pytest.mark.slow
def test_it_stops_goes_on_and_is_killed_with_the_command(warm, tmp_path):
    process, worker = long_run(warm, tmp_path)
    for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGSTOP, signal.SIGCONT):
        states = "RSD" if number == signal.SIGCONT else "T"
        process.send_signal(number)
        wait_until(lambda states=states: state_of(worker) in states, f"{number} reaches the run")
    process.kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    wait_until(lambda: state_of(worker) in ("", "Z"), "the run ends with the command")


@pytest.mark.slow
def test_a_command_that_is_killed_shows_the_signal(warm, tmp_path):
    process, worker = long_run(warm, tmp_path)
    os.kill(worker, signal.SIGKILL)
    assert process.wait(PATIENCE) == -signal.SIGKILL


@pytest.mark.slow
def test_a_closed_output_and_a_reader_that_goes_are_those_of_the_command(warm, tmp_path):
    """The output ends when the command ends, though the keeper and the warm process live on."""
    reader = subprocess.Popen(["head", "-c", "1"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    process = start(warm, "train", *SHORT, "steps=2", cwd=tmp_path, stdout=reader.stdin, stderr=subprocess.STDOUT)
    reader.stdin.close()
    assert reader.wait(PATIENCE) == 0
    process.wait(PATIENCE)
    closed = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m lab train model=mlp hardware=cpu steps=2 seed=1 >&- 2>&- <&-"],
        cwd=tmp_path,
        env=warm,
        timeout=PATIENCE,
    )
    assert closed.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, 0.03, 0.06, 0.1, 0.2, 0.4])
def test_ctrl_c_at_any_moment_ends_it_and_leaves_no_process(moment, warm, tmp_path):
    process = start(warm, "train", *SHORT, "steps=1000000", f"paths.outputs={tmp_path / 'out'}", cwd=tmp_path)
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    code = process.wait(PATIENCE)
    assert code in (130, -signal.SIGINT, 1), process.stderr.read()
    assert not [p for p in Path("/proc").glob("[0-9]*") if shows(p, f"paths.outputs={tmp_path / 'out'}")]


def shows(process, word):
    try:
        return word.encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.slow
def test_another_environment_and_a_module_of_the_same_name_do_without_it(warm, tmp_path):
    ended = command({**warm, "OMP_NUM_THREADS": "1"}, "train", "model=nothing", cwd=tmp_path)
    assert "there is no warm process for this environment" in ended.stderr
    (tmp_path / "tabulate.py").write_text("")
    ended = command(warm, "train", "model=nothing", cwd=tmp_path)
    assert f"{tmp_path / 'tabulate.py'} would be imported" in ended.stderr
    (tmp_path / "tabulate.py").unlink()
    ended = command(warm, "train", "model=nothing", cwd=tmp_path)
    assert "not warm" not in ended.stderr
    assert ended.returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_another_user_gets_no_answer(warm):
    """Even where the modes of the folders would let others in."""
    code = """
import os, socket, sys
os.seteuid(int(sys.argv[2]))
channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
channel.connect(sys.argv[1])
print(channel.recv(100))
"""
    folder = Path(warm["XDG_RUNTIME_DIR"])
    (address,) = folder.glob("lab/*.sock")
    places = [address, address.parent, *folder.parents[:3], folder]
    modes = [place.stat().st_mode for place in places]
    for place in places:
        place.chmod(0o777)
    try:
        answers = [
            subprocess.run([sys.executable, "-c", code, str(address), user], capture_output=True, text=True).stdout
            for user in ("0", "65534")
        ]
    finally:
        for place, mode in zip(places, modes, strict=True):
            place.chmod(mode)
    assert answers == ["b'ready'\n", "b''\n"]


def test_the_folder_of_sockets_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert private_folder() == tmp_path / "lab"
    assert (tmp_path / "lab").stat().st_mode & 0o777 == 0o700
    (tmp_path / "lab").chmod(0o750)
    with pytest.raises(PermissionError, match="is not a private folder"):
        private_folder()
    shutil.rmtree(tmp_path / "lab")
    (tmp_path / "lab").symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="is not a private folder"):
        private_folder()


def test_what_has_changed_is_seen(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("x = 1\n")
    imported = server.Imported(stamps={str(file): file_stamp(str(file)), str(tmp_path): file_stamp(str(tmp_path))})
    assert imported.changed() == ""
    file.write_text("x = 22\n")
    assert imported.changed() == str(file)
    file.unlink()
    assert imported.changed() == str(file)


@pytest.mark.slow
def test_a_run_goes_on_when_the_warm_process_dies_and_a_changed_package_ends_it(home, tmp_path):
    """The last one: no test after it has a warm process."""
    assert command(home, "warm", cwd=tmp_path).returncode == 0
    assert "warm since" in command(home, "doctor", cwd=tmp_path).stdout
    assert ", ready after" not in command(home, "warm", cwd=tmp_path).stdout, "there is one already"
    process, _ = long_run(home, tmp_path)
    os.kill(int(re.search(r"process (\d+)", command(home, "warm", cwd=tmp_path).stdout)[1]), signal.SIGKILL)
    before = steps_in(tmp_path / "out")
    wait_until(lambda: steps_in(tmp_path / "out") > before + 100, "the run goes on")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 75
    assert command(home, "warm", cwd=tmp_path).returncode == 0, "a socket that nobody listens at is no hindrance"
    (Path(home["PYTHONPATH"]) / "installed.py").write_text("")
    ended = command(home, "train", "model=nothing", cwd=tmp_path)
    assert "site-packages changed since" in ended.stderr
    ended = command(home, "warm", "--stop", cwd=tmp_path)
    assert "there is no warm process" in ended.stdout, "it has ended by itself"


@pytest.mark.slow
def test_it_ends_when_it_is_idle_and_when_its_user_logs_out(tmp_path):
    for number, (limits, removes) in enumerate(
        (
            ("server.IDLE_LIMIT = server.CHECK_EVERY = 0.3", False),
            ("server.CHECK_EVERY = 0.3", True),
            ("server.CHECK_EVERY = 0.3; server.user_has_terminal = iter([True, True, False]).__next__", False),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir(mode=0o700)
        code = f"from lab.warm import server; {limits}; server.Imported.all = server.Imported; server.serve(print)"
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd="/")
        if removes:
            wait_until(lambda folder=folder: list(folder.glob("lab/*.sock")), "it listens")
            shutil.rmtree(folder)
        assert process.wait(PATIENCE) == 0
        assert not list(folder.glob("lab/*.sock"))


def test_a_terminal_of_its_user_is_seen(monkeypatch):
    with_terminal, terminal = pty.fork()
    if not with_terminal:
        os.write(1, b"here")
        time.sleep(PATIENCE)
        os._exit(0)
    without = subprocess.Popen(["sleep", str(PATIENCE)], start_new_session=True)
    try:
        assert os.read(terminal, 4) == b"here"
        entries = {entry.name: entry for entry in os.scandir("/proc")}
        for process, expected in ((with_terminal, True), (without.pid, False)):
            monkeypatch.setattr(server.os, "scandir", lambda _, process=process: [entries[str(process)]])
            assert server.user_has_terminal() == expected
    finally:
        without.kill()
        without.wait()
        os.close(terminal)
        os.kill(with_terminal, signal.SIGKILL)
        os.waitpid(with_terminal, 0)
