"""A search whose process is killed at any moment goes on with the trials that it had open."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lab.config.search_space import SearchAxis
from lab.sweep.search import Search
from tests.conftest import ROOT
from tests.processes import finish, start_python
from tests.test_search import ASHA, GRID, LR, TPE

pytest.importorskip("optuna")

KILL_AXES: dict[str, SearchAxis] = {"optimizer.lr": ("0.1", "0.2"), "model": ("mlp",)}
KILLS = {"tpe": replace(TPE, trials=2, pruner=ASHA), "grid": GRID}


class Kills:
    """At each commit, what a kill just before it leaves: the files, and the trials that were asked for and told."""

    def __init__(self, folder: Path, store: Path):
        self.folder, self.store = folder, store
        self.asked: dict[int, tuple[str, ...]] = {}
        self.told: set[int] = set()
        self.left: list[tuple[Path, dict[int, tuple[str, ...]], set[int]]] = []
        self.has_written = False

    def watch(self, connection, cursor, statement, *rest) -> None:
        self.has_written |= not statement.startswith(("SELECT", "PRAGMA"))

    def keep(self, connection) -> None:
        if self.has_written:
            copy = self.folder / f"{len(self.left)}.db"
            for path in self.store.parent.glob(f"{self.store.name}*"):  # SQLite's journal, too
                shutil.copy(path, copy.parent / path.name.replace(self.store.name, copy.name))
            self.left.append((copy, dict(self.asked), set(self.told)))
        self.has_written = False


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLS)
def test_a_search_killed_at_any_write_goes_on_with_the_trials_it_had_open(name, tmp_path):
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    store = tmp_path / "whole" / "search.db"
    store.parent.mkdir()
    kills = Kills(tmp_path, store)
    event.listen(Engine, "before_cursor_execute", kills.watch)
    event.listen(Engine, "commit", kills.keep)
    try:
        search = Search(store, KILL_AXES, KILLS[name])
        while trial := search.ask():
            kills.asked[trial.number] = tuple(trial.overrides)
            if search.report(trial.number, 1, -trial.number):
                search.tell(trial.number, None, "pruned")
            else:
                search.tell(trial.number, [trial.number], "done")
            kills.told.add(trial.number)
    finally:
        event.remove(Engine, "before_cursor_execute", kills.watch)
        event.remove(Engine, "commit", kills.keep)
    assert len(kills.left) > 2 * 4  # each trial writes four times or more
    for path, asked, told in kills.left:
        search = Search(path, KILL_AXES, KILLS[name])
        rest = []
        while trial := search.ask():
            rest.append(trial)
        numbers = [trial.number for trial in rest]
        # told last, then killed before it could say so
        assert numbers == sorted(numbers)
        assert len({*numbers, *told, *list(asked)[-1:]}) == 2, (path, numbers, told)
        assert not set(numbers) & told
        assert all(tuple(trial.overrides) == asked[trial.number] for trial in rest if trial.number in asked), path
        if name == "grid":
            assert len({*asked.values(), *(tuple(trial.overrides) for trial in rest)}) == 2


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
