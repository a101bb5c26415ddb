"""One run and one sweep that are given secrets in every way: none of them is anywhere in what they leave or print."""

import subprocess
from pathlib import Path

import pytest

MODEL = """
import math
from torch import nn


class Net(nn.Sequential):
    def __init__(self, shape: list[int], num_classes: int, auth: str = "", headers: dict | None = None, url: str = "",
                 token: str = "", width: int = 8, fails: bool = False):
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), width), nn.Linear(width, num_classes))
        if fails:
            raise RuntimeError(f"no access with {token} to {url}")
"""
YAML = """
_target_: mine.Net
shape: ${data.shape}
num_classes: ${data.num_classes}
auth: ""
headers: {Authorization: ""}
url: ""
token: ${oc.env:MY_TOKEN,""}
width: 8
fails: false
"""
TYPED, HEADER, PASSWORD, TOKEN = "typed-S3cr3tCanary01", "Bearer S3cr3tCanary02", "S3cr3tCanary03", "S3cr3tCanary04xyz"
SECRETS = [TYPED, HEADER.split()[1], PASSWORD, TOKEN]
GIVEN = (
    *("model=mine", "steps=2", "log_every=1"),
    f"model.auth={TYPED}",
    f'model.headers.Authorization="{HEADER}"',
    f"'model.url=https://someone:{PASSWORD}@example.org/x'".strip("'"),
)


@pytest.fixture
def app(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    (tmp_path / "mine.py").write_text(MODEL)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(YAML)
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "start"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    (tmp_path / "mine.py").write_text(f'{MODEL}\nAPI_KEY = "{TOKEN}"\nURL = "https://me:{PASSWORD}@example.org"\n')
    return tmp_path


def leaks(app: Path, printed: str) -> list[str]:
    """Where below outputs/, in names and contents, or in what was printed, one of the secrets is."""
    found = [f"printed: {secret}" for secret in SECRETS if secret in printed]
    for path in (app / "outputs").rglob("*"):
        name = str(path.relative_to(app))
        content = path.read_bytes() if path.is_file() else b""
        found += [f"{name}: {secret}" for secret in SECRETS if secret in name or secret.encode() in content]
    return found


@pytest.mark.slow
def test_no_secret_is_in_what_a_run_leaves_or_prints(app, lab_process):
    done = lab_process("train", *GIVEN)
    assert done.code == 0, done.err
    assert leaks(app, done.out + done.err) == []


@pytest.mark.slow
def test_no_secret_is_in_what_a_sweep_leaves_or_prints(app, lab_process):
    done = lab_process("train", "-m", *GIVEN, "model.width=8,16")
    assert done.code == 0, done.err
    shown = lab_process("ls"), lab_process("plan", "-m", *GIVEN, "model.width=8,16"), lab_process("report")
    assert leaks(app, "".join(one.out + one.err for one in (done, *shown))) == []


@pytest.mark.slow
def test_no_secret_is_in_the_text_of_an_error(app, lab_process):
    failed = lab_process("train", *GIVEN, "model.fails=true")
    assert failed.code != 0
    assert leaks(app, failed.out + failed.err) == []
