"""The pages of docs/ that show commands: each command runs, and prints what its page says."""

import os
import re
import shlex

import pytest

from tests.conftest import ROOT
from tests.squares import write_voc

NUMBER = re.compile(r"[+-]?\d[\d.e+-]*|\b[0-9a-f]{8}\b")
VERDICTS = re.compile(r"REPRODUCED|WITHIN NOISE|NOT YET DECIDABLE")


def plain(text: str) -> list[str]:
    """The lines without their numbers and ids, which differ between machines, and with single spaces."""
    return [" ".join(NUMBER.sub("#", line).split()) for line in text.splitlines() if line.strip()]


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
