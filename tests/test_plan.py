"""A plan on disk says what was planned, whatever became of the file, and no more than it should."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config.composed import ComposedConfig
from lab.identity.identity import Identity
from lab.redact import redact
from lab.sweep.plan import (
    PLAN_FILE,
    Job,
    Plan,
    append_jobs,
    mark_duplicates,
    read_float,
    read_plan,
    sweep_name,
    write_line,
    write_plan,
)
from lab.sweep.run_plan import name_links

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text.filter(bool), inner, max_size=3),
    max_leaves=6,
)
configs = st.dictionaries(st.sampled_from(["seed", "lr", "model", "a\u2028b", "naïve 😀"]), values, max_size=4)
NODES = [{"node": 0}, {"node": 1}]


def job(number: int, config: dict, node: int = 0, overrides: tuple[str, ...] = ()) -> Job:
    asked = ComposedConfig(config, {"source": "${of}", **config}, NODES[node], list(overrides), {"model": f"m{node}"})
    code = f"{len(json.dumps(config)):x}"
    return Job(number, asked, Identity(json.dumps(config, sort_keys=True), code, {}), Path(f"outputs/runs/{number}"))


def plan(jobs: list[Job], directory: Path) -> Plan:
    return Plan(directory, mark_duplicates(jobs), {"mine": "0123", "mine.token_cache": "4567"})


def asked_parts(asked: ComposedConfig) -> list:
    # as a plan keeps them: hypothesis does find keys named TOKEN
    return redact([asked.resolved, asked.unresolved, asked.hydra, list(asked.overrides), asked.choices])


def parts(jobs: Sequence[Job]) -> list:
    return [
        (job.number, job.identity, job.directory.absolute(), job.duplicate_of, asked_parts(job.composed))
        for job in jobs
    ]


several = st.lists(st.tuples(configs, st.integers(0, 1), st.tuples(text)), min_size=1, max_size=5)


def jobs_of(drawn, first: int = 0) -> list[Job]:
    return [job(number, *one) for number, one in enumerate(drawn, start=first)]


@given(several, several)
def test_what_was_written_and_appended_is_read_back(first, more):
    with TemporaryDirectory() as folder:
        planned = plan(jobs_of(first), Path(folder))
        write_plan(planned)
        assert parts(read_plan(Path(folder)).jobs) == parts(planned.jobs)
        whole = append_jobs(planned, jobs_of(more, len(first)))
        found = read_plan(Path(folder))
        assert parts(found.jobs) == parts(whole.jobs)
        assert found.sources == {"mine": "0123", "mine.token_cache": "4567"}


@settings(max_examples=30)
@given(several, several, st.data())
def test_torn_at_any_byte_it_keeps_the_whole_lines_and_takes_more(first, more, data):
    with TemporaryDirectory() as folder:
        planned = plan(jobs_of(first), Path(folder))
        write_plan(planned)
        path = Path(folder) / PLAN_FILE
        before = path.stat().st_size
        append_jobs(planned, jobs_of(more, len(first)))
        content = path.read_bytes()
        cut = data.draw(st.integers(before, len(content)))
        path.write_bytes(content[:cut])
        kept = read_plan(Path(folder))
        # a line that lacks nothing but its end counts
        lines = set(content.split(b"\n")) - {b""}
        whole = [line for line in content[:cut].split(b"\n") if line in lines and "job" in json.loads(line)]
        assert [j.number for j in kept.jobs] == list(range(len(whole)))
        again = append_jobs(kept, jobs_of(more, len(kept.jobs)))
        assert parts(read_plan(Path(folder)).jobs) == parts(again.jobs)


@given(several, st.data())
def test_of_two_lines_for_one_job_the_later_counts(drawn, data):
    with TemporaryDirectory() as folder:
        planned = plan(jobs_of(drawn), Path(folder))
        write_plan(planned)
        path = Path(folder) / PLAN_FILE
        lines = path.read_text().split("\n")[:-1]
        twice = data.draw(st.integers(0, len(lines) - 1))
        path.write_text("".join(line + "\n" for line in [*lines, lines[twice]]))
        assert parts(read_plan(Path(folder)).jobs) == parts(planned.jobs)
        last = replace(planned.jobs[-1], directory=Path("elsewhere"))
        append_jobs(replace(planned, jobs=planned.jobs[:-1]), [last])
        assert read_plan(Path(folder)).jobs[-1].directory == Path("elsewhere").absolute()


@given(st.binary(max_size=200))
def test_what_is_no_plan_is_said_to_be_none(content):
    with TemporaryDirectory() as folder:
        (Path(folder) / PLAN_FILE).write_bytes(content)
        with pytest.raises(ValueError, match="plan"):
            read_plan(Path(folder))


@pytest.mark.parametrize("line", ["[]", "3", "null", '"job"', '{"job": 0}', '{"job": 0, "base": 0}', '{"base": [1]}'])
def test_a_line_of_json_that_says_something_else_is_no_plan(line, tmp_path):
    (tmp_path / PLAN_FILE).write_text(line + "\n")
    with pytest.raises(ValueError, match="plan"):
        read_plan(tmp_path)


def test_secrets_are_not_in_it(tmp_path):
    config = {"data": {"hub_token": "tell-nobody", "deep": [{"api_key": "tell-nobody"}]}}
    planned = plan([job(0, config, 0, ("data.hub_token=tell-nobody",))], tmp_path)
    write_plan(planned)
    append_jobs(planned, [job(1, config | {"seed": 1}, 1, ("+data.password=tell-nobody",))])
    shown = [replace(one, identity=Identity("", "", {})) for one in read_plan(tmp_path).jobs]
    assert "tell-nobody" not in str(parts(shown))
    assert "<redacted>" in str(parts(shown))


@given(several)
def test_jobs_that_are_the_same_run_are_one(drawn):
    marked = mark_duplicates(jobs_of(drawn))
    assert len({j.identity.id for j in marked}) == sum(j.duplicate_of is None for j in marked)
    by_number = {j.number: j for j in marked}
    for one in marked:
        if one.duplicate_of is not None:
            first = by_number[one.duplicate_of]
            assert first.number < one.number
            assert (first.duplicate_of, first.identity.id, first.directory) == (None, one.identity.id, one.directory)


@given(st.lists(text), st.lists(st.from_regex("[0-9a-f]{8}", fullmatch=True), min_size=1), st.randoms())
def test_a_sweep_is_called_the_same_however_its_runs_are_ordered_or_repeated(named, ids, chance):
    again = [*ids, ids[0]]
    chance.shuffle(again)
    name = sweep_name(named, ids)
    assert sweep_name(named, again) == name
    assert re.fullmatch(r"[A-Za-z0-9=,+][A-Za-z0-9._=,+-]*-[0-9a-f]{8}", name)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, {"a": float("-inf")}], {"float": "x"}])
def test_numbers_that_are_not_finite_are_valid_json_and_come_back(value):
    line = write_line({"config": value})
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert repr(json.loads(line, object_hook=read_float)["config"]) == repr(value)


def test_tensorboard_names_a_sweeps_runs_by_numbers_and_swept_values(tmp_path):
    both = ("optimizer.weight_decay", "finetune_strategy.weight_decay")
    jobs = [
        replace(
            job(n, {"seed": n}, overrides=(f"{both[0]}={n}", f"{both[1]}=0.{n}", f"seed={n}", f"data.token=hunter{n}")),
            directory=tmp_path / "runs" / f"run-{n:08}",
        )
        for n in range(11)
    ]
    sweep = plan(jobs, tmp_path / "sweeps" / "decay-0123abcd")
    for planned in jobs[:-1]:
        planned.directory.mkdir(parents=True)
    folder = name_links(sweep)
    assert folder == tmp_path / "tensorboard" / "decay-0123abcd"
    (folder / "99 of an earlier plan").symlink_to("nowhere")
    before = {link: link.lstat().st_ino for link in folder.iterdir()}
    jobs[-1].directory.mkdir()
    assert name_links(sweep) == folder
    names = sorted(link.name for link in folder.iterdir())
    assert names[2].startswith("02 optimizer.weight_decay=2 finetune_strategy.weight_decay=0.2 seed=2")
    assert [int(name[:2]) for name in names] == list(range(11)), "they sort, and those of an earlier plan are gone"
    assert [(folder / name).resolve() for name in names] == [planned.directory for planned in jobs]
    assert not any("hunter" in name for name in names)
    assert all(before.get(link, link.lstat().st_ino) == link.lstat().st_ino for link in folder.iterdir()), "kept"


def test_there_are_no_names_for_a_sweep_elsewhere_or_through_a_link(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "lr").symlink_to(tmp_path, target_is_directory=True)
    assert name_links(plan([job(0, {})], tmp_path / "sweeps" / "lr")) is None
    assert name_links(plan([job(0, {})], tmp_path / "elsewhere" / "lr")) is None
    assert name_links(plan([], tmp_path / "sweeps" / "none")) is None
