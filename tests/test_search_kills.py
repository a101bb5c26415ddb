"""A search whose process is killed at any moment goes on with the trials that it had open."""

from dataclasses import replace

import pytest

from lab.config.search_space import SearchAxis
from lab.sweep.search import Search
from tests.conftest import ROOT
from tests.processes import finish, start_python
from tests.test_search import ASHA, GRID, LR, TPE

pytest.importorskip("optuna")

KILLED = """
import os, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
from lab.sweep.search import Search
from tests.test_search_kills import KILL_AXES, KILLS

import optuna.storages  # once, for all the children
folder = Path(sys.argv[1])
for name, settings in KILLS.items():
    for commit in range(1, 100):
        child = os.fork()
        if not child:
            left, written = commit, False
            def wrote(connection, cursor, statement, *rest):
                global written
                written |= not statement.startswith(("SELECT", "PRAGMA"))
            def count(connection):
                global left, written
                left -= written
                if not left:
                    os._exit(9)  # all is written, nothing is committed
                written = False
            event.listen(Engine, "before_cursor_execute", wrote)
            event.listen(Engine, "commit", count)
            search = Search(folder / f"{name}-{commit}.db", KILL_AXES, settings)
            while trial := search.ask():
                print(name, commit, "asked", trial.number, *trial.overrides, flush=True)
                if search.report(trial.number, 1, -trial.number):
                    search.tell(trial.number, None, "pruned")
                else:
                    search.tell(trial.number, [trial.number], "done")
                print(name, commit, "told", trial.number, flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
"""
KILL_AXES: dict[str, SearchAxis] = {"optimizer.lr": ("0.1", "0.2"), "model": ("mlp",)}
KILLS = {"tpe": replace(TPE, trials=2, pruner=ASHA), "grid": GRID}


@pytest.mark.slow
def test_a_search_killed_at_any_write_goes_on_with_the_trials_it_had_open(tmp_path):
    done = finish(start_python("-c", KILLED, str(tmp_path), cwd=ROOT))
    assert done.code == 0, done.err
    said = [line.split() for line in done.out.splitlines()]
    stores = list(tmp_path.glob("*.db"))
    assert len(stores) > 2 * 2 * 4  # each trial writes four times or more
    for path in stores:
        name, commit = path.stem.split("-")
        mine = [words[2:] for words in said if words[:2] == [name, commit]]
        asked = {int(words[1]): tuple(words[2:]) for words in mine if words[0] == "asked"}
        told = {int(words[1]) for words in mine if words[0] == "told"}
        search = Search(path, KILL_AXES, KILLS[name])
        rest = []
        while trial := search.ask():
            rest.append(trial)
        numbers = [trial.number for trial in rest]
        # told last, then killed before it could say so
        assert numbers == sorted(numbers)
        assert len({*numbers, *told, *list(asked)[-1:]}) == 2, (path, numbers, told)
        assert not set(numbers) & told
        assert all(trial.overrides == asked[trial.number] for trial in rest if trial.number in asked), path
        if name == "grid":
            assert len({*asked.values(), *(trial.overrides for trial in rest)}) == 2


def test_an_open_trial_comes_again_once_with_its_number_and_values(tmp_path):
    code = """
import os, sys
from pathlib import Path
from tests.test_search import ASHA, LR, Search, TPE
search = Search(Path(sys.argv[1]), {"optimizer.lr": LR}, TPE)
for number in range(4):
    print(*search.ask().overrides, flush=True)
search.tell(1, [0.5], "done")
os._exit(9)
"""
    path = tmp_path / "search.db"
    killed = finish(start_python("-c", code, str(path), cwd=ROOT))
    assert killed.code == 9, killed.err
    before = killed.out.split()
    search = Search(path, {"optimizer.lr": LR}, replace(TPE, trials=5))
    asked = []
    while trial := search.ask():
        asked.append(trial)
    assert [trial.number for trial in asked] == [0, 2, 3, 4]
    assert [trial.overrides for trial in asked[:3]] == [(before[0],), (before[2],), (before[3],)]
    assert asked[3].overrides[0] not in before
