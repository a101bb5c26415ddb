"""A sweep's plan: all its jobs with their identities and directories, written to disk before the first job starts."""

import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lab.config.composed import ComposedConfig
from lab.errors import DamagedRun
from lab.identity.identity import Identity
from lab.ledger.saved_run import SavedRun
from lab.record.files import LONGEST_LINE, SURROGATES, make_directory, open_to_append, slugify, write_atomically
from lab.redact import redact, redact_text

PLAN_FILE = "plan.jsonl"
SCHEMA = 1  # of plan.jsonl


@dataclass(frozen=True)
class Job:
    """One run of a sweep.  duplicate_of: the number of an earlier job that is the same run, or None."""

    number: int
    composed: ComposedConfig
    identity: Identity
    directory: Path
    duplicate_of: int | None = None


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep.

    directory: directory of the sweep.  sources: SHA-256 of each module that counts for the jobs' identities, by module
    name.  search: arguments of a search, which adds jobs to its plan as it goes; None for any other sweep.
    """

    directory: Path
    jobs: Sequence[Job]
    sources: Mapping[str, str]
    search: Sequence[str] | None = None

    @property
    def unique_jobs(self) -> list[Job]:
        """The jobs without those that repeat an earlier one."""
        return [job for job in self.jobs if job.duplicate_of is None]


def mark_duplicates(jobs: Sequence[Job]) -> list[Job]:
    """The same jobs. A job that repeats an earlier one is marked as its duplicate and gets its directory."""
    first: dict[str, Job] = {}
    marked = []
    for job in jobs:
        original = first.setdefault(job.identity.id, job)
        is_first = original is job
        marked.append(job if is_first else replace(job, duplicate_of=original.number, directory=original.directory))
    return marked


def sweep_name(parts: Sequence[str], identities: Sequence[str]) -> str:
    """`<name>-<id8>`; the 8 characters do not depend on the order of the runs or the spelling of their overrides.

    parts: parts of the name, dotted keys among them.  identities: ids of the runs.
    """
    name = slugify("_".join(part.rpartition(".")[2] for part in parts)) or "sweep"
    return f"{name}-{hashlib.sha256(' '.join(sorted(set(identities))).encode()).hexdigest()[:8]}"


def job_status(job: Job, run: SavedRun | None = None) -> dict[str, Any]:
    """The status of a job's run; `pending` where its directory holds another run, `failed` where it cannot be read.

    run: SavedRun of the job's directory; None: a new one is read.
    """
    try:
        status = (run or SavedRun(job.directory)).status
    except DamagedRun as error:
        return {"state": "failed", "error": str(error), "outside": True}
    return status if status.get("id", job.identity.id) == job.identity.id else {"state": "pending"}


def needs_run(status: Mapping[str, Any], retry: bool) -> bool:
    """Whether a run with this status still has to be done.

    A failure that the same code would repeat (an exception, a divergence) is done again only with `retry`; a failure
    with an outside cause (a signal, a full disk, memory, a hang) always.
    """
    if status["state"] in ("failed", "diverged"):
        return retry or bool(status.get("outside"))
    return status["state"] != "done"


def write_plan(plan: Plan) -> None:
    """Raises OSError where the sweep's directory cannot be written."""
    make_directory(plan.directory)
    head = redact({"schema": SCHEMA, "search": plan.search and list(plan.search)})
    head["sources"] = dict(plan.sources)  # hashes by the names of modules, one of which may be called `tokens`
    lines = [head, *map(redact, plan_lines(plan.directory, plan.jobs))]
    text = "".join(map(write_line, lines))
    write_atomically(plan.directory / PLAN_FILE, text.encode(errors=SURROGATES))


def append_jobs(plan: Plan, jobs: Sequence[Job]) -> Plan:
    """Add jobs to the plan on disk, as a search does for each trial. Gives the plan with them."""
    text = "".join(write_line(redact(line)) for line in plan_lines(plan.directory, jobs, len(plan.jobs)))
    with os.fdopen(open_to_append(plan.directory / PLAN_FILE), "rb+") as file:
        file.seek(0)
        last = file.read().rpartition(b"\n")[2]
        if is_whole_line(last):  # only the newline after it is missing
            file.write(b"\n")
        else:  # the write was interrupted
            file.truncate(file.seek(-len(last), os.SEEK_END))
        file.write(text.encode(errors=SURROGATES))
        file.flush()
        os.fsync(file.fileno())
    return replace(plan, jobs=[*plan.jobs, *jobs])


def write_line(line: Mapping[str, Any]) -> str:
    """A line of JSON, which has no NaN and no infinity: such a number is `{"float": "nan"}`."""
    try:
        return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(name_floats(line), ensure_ascii=False) + "\n"


def name_floats(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: name_floats(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return list(map(name_floats, value))
    return {"float": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def read_float(part: dict[str, Any]) -> Any:
    """The number that `name_floats` wrote, or the mapping as it is."""
    is_named = part.keys() == {"float"} and part["float"] in ("nan", "inf", "-inf")
    return float(part["float"]) if is_named else part


def is_whole_line(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:  # no JSON, or cut off inside of a UTF-8 character
        return False
    return True


def plan_lines(sweep: Path, jobs: Sequence[Job], first_base: int = 0) -> Iterator[dict[str, Any]]:
    """The lines of jobs in a plan. Each choice of groups has one line, the base of its jobs, and each job has one line
    with the top-level keys in which its config differs from its base.

    first_base: number of the first base.
    """
    bases: dict[int, tuple[int, ComposedConfig]] = {}
    for job in jobs:
        composed = job.composed
        key = id(composed.hydra)  # jobs that were composed together share one object
        if key not in bases:
            bases[key] = (first_base + len(bases), composed)
            yield {
                "base": bases[key][0],
                "config": composed.resolved,
                "source": composed.unresolved,
                "hydra": composed.hydra,
                "choices": composed.choices,
            }
        number, base = bases[key]
        yield {
            "job": job.number,
            "base": number,
            "id": job.identity.id,
            "identity": asdict(job.identity),
            "directory": os.path.relpath(job.directory, sweep),  # outputs/ may be moved as a whole
            "duplicate_of": job.duplicate_of,
            "overrides": list(map(redact_text, composed.overrides)),
            "config": top_level_changes(base.resolved, composed.resolved),
            "source": top_level_changes(base.unresolved, composed.unresolved),
        }


def top_level_changes(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that `apply_changes` makes to get `other` from `base`."""
    changed = {key: value for key, value in other.items() if key not in base or base[key] != value}
    return {"set": changed, "without": [key for key in base if key not in other]}


def apply_changes(base: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**base, **by["set"]}.items() if key not in by["without"]}


def read_plan(directory: Path) -> Plan:
    """The plan in a sweep's directory. A torn last line is left out; where two jobs have the same number, the later one
    counts.

    Raises ValueError where there is no plan, or a file that is not a plan.
    """
    sources: dict[str, str] = {}
    search: list[str] | None = None
    bases: dict[int, dict[str, Any]] = {}
    jobs: dict[int, Job] = {}
    try:
        for line in read_whole_lines(directory / PLAN_FILE):
            if "sources" in line:
                sources, search = line["sources"], line.get("search")
            elif "job" in line:
                jobs[line["job"]] = parse_job(directory, line, bases[line["base"]])
            else:
                bases[line["base"]] = line
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{directory / PLAN_FILE} is not a plan of lab's: {error!r}") from error
    if not jobs and search is None:
        raise ValueError(f"{directory} has no plan; give the sweep's command again")
    return Plan(directory, [jobs[number] for number in sorted(jobs)], sources, search)


def parse_job(sweep: Path, line: Mapping[str, Any], base: Mapping[str, Any]) -> Job:
    composed = ComposedConfig(
        resolved=apply_changes(base["config"], line["config"]),
        unresolved=apply_changes(base["source"], line["source"]),
        hydra=base["hydra"],
        overrides=line["overrides"],
        choices=base["choices"],
    )
    number, identity = line["job"], Identity(**line["identity"])
    if type(number) is not int or number < 0 or line["id"] != identity.id:
        raise TypeError(f"job {number!r} with id {line['id']!r}")
    return Job(number, composed, identity, Path(os.path.normpath(sweep / line["directory"])), line["duplicate_of"])


def read_whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a plan, the last one only if it is whole; none where there is no file. Raises ValueError for a
    damaged line, and for one that is longer than any of lab's."""
    try:
        file = open(path, "rb")
    except OSError:
        return
    with file:
        for number in itertools.count(1):
            line = file.readline(LONGEST_LINE)  # bytes: text would be cut at U+2028 and others, too
            if not line:
                return
            try:
                yield json.loads(line, object_hook=read_float)
            except ValueError as error:
                if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                    return  # the write was interrupted, and the job has not begun
                raise ValueError(f"line {number} of {path} is damaged; give the sweep's command again") from error


def link_run(sweep: Path, job: Job) -> None:
    """Make the link `<n>-<id8>` in the sweep's directory to a run that lies elsewhere."""
    run = job.directory
    if run.resolve().is_relative_to(sweep.resolve()):
        return
    link = sweep / f"{job.number}-{job.identity.id}"
    target = os.path.relpath(run, sweep)
    if link.is_symlink() and os.readlink(link) == target:
        return
    for outdated in sweep.glob(f"{job.number}-*"):
        if outdated.is_symlink():  # to the same job with other code or other data
            outdated.unlink(missing_ok=True)
    with suppress(FileExistsError):  # another process of the same sweep has made it
        link.symlink_to(target, target_is_directory=True)
