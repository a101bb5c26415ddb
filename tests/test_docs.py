"""The pages of docs/ that show commands: each command runs, and prints what its page says."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from lab.cli.completion import FLAGS
from lab.cli.main import VERBS
from tests.conftest import ROOT
from tests.squares import write_voc

ID = re.compile(r"\b[0-9a-f]{8}\b")
NUMBER = re.compile(r"[+-]?\d[\d.e+-]*")
VERDICTS = re.compile(r"REPRODUCED|WITHIN NOISE|NOT YET DECIDABLE")


def plain(text: str) -> list[str]:
    """The lines without their numbers and ids, which differ between machines, and with single spaces."""
    return [" ".join(NUMBER.sub("#", ID.sub("#", line)).split()) for line in text.splitlines() if line.strip()]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["answers.md", "text.md", "detection.md"])
def test_the_commands_of_a_page_print_what_it_says(lab, tmp_path, page):
    """A block with a file name after its kind, or in its first line, is that file."""
    blocks = re.findall(
        r"^```(\w*)(?: (\S+))?\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE
    )
    if page == "detection.md":
        write_voc(tmp_path / "squares")
    printed = ""
    for kind, file, text in blocks:
        if file or kind == "yaml":
            path = tmp_path / (file or re.match(r"# (\S+)", text)[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif kind == "bash":
            printed = ""
            for line in text.splitlines():
                ended = lab(*shlex.split(line.partition("  #")[0])[1:])
                assert ended.code in (0, 5), ended.err
                printed += ended.out + ended.err
        elif kind == "text":
            shown = plain(text)
            missing = [line for line in shown if line not in plain(printed)]
            # a note may come and go with the last digits, and so may the order of rows; the rest is there
            assert len(missing) <= len(shown) // 4, (missing, printed)
    if page == "answers.md":
        assert (tmp_path / "paper" / "report.html").is_file()
        assert os.listdir(tmp_path / "experiments" / "mine")


def test_the_projects_that_a_page_shows_are_those_that_are_tested():
    text = (ROOT / "docs" / "own_tasks.md").read_text("utf-8")
    shown = re.findall(r"^```python (\S+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(shown) == 3
    for file, code in shown:
        assert code == (ROOT / file).read_text("utf-8")
    for file, content in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        (path,) = ROOT.glob(f"tests/apps/*/{file}")
        assert content == path.read_text("utf-8")


PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("train", "sweeps", "fine_tuning", "processes", "runs", "own_parts")),
)
PAGES += ("docs/detection.md", "docs/text.md")
ELSEWHERE = ("hydra/launcher=ray",)  # a package that is not installed for tests


def write_files(page: str, folder: Path) -> None:
    """The files that a page shows, each under the path that its first line names."""
    text = (ROOT / page).read_text("utf-8")
    for path, content in re.findall(r"^```\w+\n# (\S+\.\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, "utf-8")


def commands_of(page: str) -> list[list[str]]:
    blocks = re.findall(r"^```(.*?)\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    lines = "".join(text for kind, text in blocks if kind in ("", "bash")).replace("\\\n", " ").splitlines()
    commands = [line.partition("  #")[0] for line in lines if line.startswith("lab ")]
    return [shlex.split(line) for line in commands if not any(word in line for word in ELSEWHERE)]


def one_of(word: str) -> str:
    """An override with the first of its swept values."""
    key, equals, value = word.partition("=")
    return word if value.startswith(("[", "{")) else key + equals + value.split(",")[0]


def test_every_command_of_the_pages_is_one_that_lab_knows(lab, tmp_path):
    """Those that train are composed; of the others the verb and its flags are looked up."""
    seen = 0
    for page in PAGES:
        write_files(page, tmp_path)
        for _, verb, *rest in commands_of(page):
            seen += 1
            assert verb in VERBS, (page, verb)
            if verb == "train" and "--help" not in rest and "data=image_folder" not in rest:
                arguments = [one_of(word) for word in rest if word not in ("--cfg", "job", "-m") and "(" not in word]
                ended = lab("train", *arguments, "--cfg", "job")
                assert ended.code == 0, (page, rest, ended.err)
            elif verb not in ("train", "check", "plan", "rank", "eval", "rerun"):
                flags = [word.partition("=")[0] for word in rest if word.startswith("--")]
                assert set(flags) <= {*FLAGS.get(verb, ()), "--help"}, (page, verb, flags)
    assert seen > 40


# what the pages for newcomers show and this test leaves to others: an hour of training, the warm process, GPUs
ELSEWHERE_RUN = ("experiment=cifar10/resnet20", "warm", "hardware=ddp", "hardware=fsdp")


@pytest.mark.slow
def test_the_commands_for_newcomers_run_as_they_stand(lab, tmp_path):
    (tmp_path / "photos").mkdir()
    for path in ("photos/0.png", "photos/1.png", "cat.jpg"):
        Image.new("L", (8, 8), 128).save(tmp_path / path)
    assert lab("train").code == 0  # the end of the README's first line
    printed = ""
    for page in ("README.md", *(f"docs/{name}.md" for name in ("train", "runs", "own_parts", "processes"))):
        write_files(page, tmp_path)
        for _, *command in commands_of(page):
            if any(word in ELSEWHERE_RUN for word in command) and "hardware.device=cpu" not in command:
                continue
            if "RUN" in command or "SWEEP" in command:
                runs = json.loads(lab("ls", "--where", "model=mlp", "--json").out)
                (sweep,) = tmp_path.glob("outputs/sweeps/lr_seed-*")
                names = {"RUN": runs[0]["id"], "SWEEP": sweep.name}
                command = [names.get(word, word) for word in command]
            ended = lab(*command)
            assert ended.code == 0, (page, command, ended.out + ended.err)
            assert ended.out, (page, command)
            printed += ended.out + ended.err if page == "README.md" else ""
    sys.modules.pop("mine")  # of a page, and not of a later test
    assert len(list(tmp_path.glob("outputs/runs/**/results.json"))) == 16
    assert (tmp_path / "sweep.tar.gz").is_file()
    shown = re.findall(r"^```text\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(shown) == 4  # and a picture of the fifth command's
    for line in plain("".join(shown)):
        assert any(known.startswith(line.partition(" ...")[0]) for known in plain(printed)), (line, printed)


def test_the_readme_is_short_and_its_links_lead_somewhere():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 120
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), (page.name, target)


def test_the_promises_name_tests_that_are_there():
    rows = re.findall(
        r"^\| [^|]+ \| [^|]+ \| (.+) \|$", (ROOT / "docs" / "reliability.md").read_text("utf-8"), re.MULTILINE
    )
    named = [name for row in rows for name in re.findall(r"`(test_\w+)`", row)]
    assert len(named) > 20
    for name in named:
        assert (ROOT / "tests" / f"{name}.py").is_file(), name


@pytest.mark.slow
def test_the_keys_of_a_runs_files_are_those_that_the_page_lists(lab, tmp_path):
    assert lab("train", "model=mlp", "steps=2").code == 0
    (run,) = (tmp_path / "outputs" / "runs" / "train").iterdir()
    page = (ROOT / "docs" / "runs.md").read_text()
    for name in ("manifest.json", "status.json"):
        table = page.partition(f"`{name}`, ")[2].partition("\n\n`")[0]
        rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
        listed = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
        written = json.loads((run / name).read_text()).keys()
        assert written <= listed, f"{name}: the page lacks some"
        assert listed - written <= {"error", "outside", "reason", "pruned"}, f"{name} lacks some"
    for name in ("best", "last"):
        content = torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)
        line = page.partition("`checkpoints/best.pt`: ")[2].partition("\n\n")[0]
        assert content.keys() <= set(re.findall(r"`(\w+)`", line)), name
