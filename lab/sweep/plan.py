"""A sweep's plan: every job it has, with its identity and its directory, on disk before the first one starts."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lab.config.composed import ComposedConfig
from lab.config.redact import redact, redact_text
from lab.identity.identity import Identity
from lab.record.files import read_json, slugify, write_atomically
from lab.record.status import read_status

PLAN_FILE = "plan.jsonl"


@dataclass(frozen=True)
class Job:
    """One run of a sweep.  twin: the number of an earlier job that is the same run."""

    number: int
    asked: ComposedConfig
    identity: Identity
    directory: Path
    twin: int | None = None


@dataclass(frozen=True)
class Plan:
    """directory: the sweep's.  sources: the SHA-256 of each module whose code counts, by its name.  search: the
    arguments of a sweep that asks for more jobs by itself.
    """

    directory: Path
    jobs: Sequence[Job]
    sources: Mapping[str, str]
    search: Sequence[str] | None = None

    @property
    def own(self) -> list[Job]:
        """The jobs that are no other's twin."""
        return [job for job in self.jobs if job.twin is None]


def mark_duplicates(jobs: Sequence[Job]) -> list[Job]:
    """The same jobs, each that repeats an earlier one marked as its twin."""
    first: dict[str, Job] = {}
    found = []
    for job in jobs:
        seen = first.setdefault(job.identity.id, job)
        found.append(job if seen is job else replace(job, twin=seen.number, directory=seen.directory))
    return found


def sweep_name(parts: Sequence[str], identities: Sequence[str]) -> str:
    """`<name>-<id8>`: the same for the same runs, however they were asked for."""
    name = slugify("_".join(part.rpartition(".")[2] for part in parts)) or "sweep"
    return f"{name}-{hashlib.sha256(' '.join(sorted(set(identities))).encode()).hexdigest()[:8]}"


def job_status(job: Job) -> dict[str, Any]:
    """Of a job's run: as `read_status` gives it, but `pending` where its directory holds another run."""
    found = read_status(job.directory)
    return found if found.get("id", job.identity.id) == job.identity.id else {"state": "pending"}


def needs_run(status: Mapping[str, Any], retry: bool) -> bool:
    """Whether a run in this state is to be done.

    A failure that the same code would repeat, an exception or a divergence, is taken up again only by a retry; one
    from outside (a signal, a full disk, memory, a hang) also by the same command.
    """
    if status["state"] in ("failed", "diverged"):
        return retry or bool(status.get("outside"))
    return status["state"] != "done"


def write_plan(plan: Plan) -> None:
    """Raises OSError where the sweep's directory cannot be written."""
    plan.directory.mkdir(parents=True, exist_ok=True)
    head = {"sources": dict(plan.sources), "search": plan.search and list(plan.search)}
    lines = map(redact, [head, *plan_lines(plan.directory, plan.jobs)])
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(plan.directory / PLAN_FILE, text.encode())


def append_jobs(plan: Plan, jobs: Sequence[Job]) -> Plan:
    """Add jobs to the plan on disk, as a search does when it asks for the next."""
    text = "".join(
        json.dumps(redact(line), ensure_ascii=False) + "\n" for line in plan_lines(plan.directory, jobs, len(plan.jobs))
    )
    with open(plan.directory / PLAN_FILE, "rb+") as file:
        last = file.read().rpartition(b"\n")[2]
        if is_whole_line(last):  # but for its end
            file.write(b"\n")
        else:
            file.truncate(file.seek(-len(last), os.SEEK_END))  # torn when it was written
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    return replace(plan, jobs=[*plan.jobs, *jobs])


def is_whole_line(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:  # no JSON, or torn within a letter
        return False
    return True


def plan_lines(sweep: Path, jobs: Sequence[Job], first_base: int = 0) -> Iterator[dict[str, Any]]:
    """A base for each choice of groups, and each job as what differs from its base at the top level."""
    bases: dict[int, tuple[int, ComposedConfig]] = {}
    for job in jobs:
        asked = job.asked
        key = id(asked.hydra)  # what was composed once is one object
        if key not in bases:
            bases[key] = (first_base + len(bases), asked)
            parts = {name: getattr(asked, name) for name in ("config", "source", "hydra", "choices")}
            yield {"base": bases[key][0], **parts}
        number, base = bases[key]
        yield {
            "job": job.number,
            "base": number,
            "id": job.identity.id,
            "identity": asdict(job.identity),
            "directory": os.path.relpath(job.directory, sweep),  # outputs/ may be moved as a whole
            "twin": job.twin,
            "overrides": list(map(redact_text, asked.overrides)),
            "config": top_level_changes(base.config, asked.config),
            "source": top_level_changes(base.source, asked.source),
        }


def top_level_changes(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    changed = {key: value for key, value in other.items() if key not in base or base[key] != value}
    return {"set": changed, "without": [key for key in base if key not in other]}


def apply_changes(base: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**base, **by["set"]}.items() if key not in by["without"]}


def read_plan(directory: Path) -> Plan:
    """The plan in a sweep's directory. A torn last line is left out, of two jobs of one number the later one counts.

    Raises ValueError where there is none, or it is not a plan.
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
    asked = ComposedConfig(
        config=apply_changes(base["config"], line["config"]),
        source=apply_changes(base["source"], line["source"]),
        hydra=base["hydra"],
        overrides=line["overrides"],
        choices=base["choices"],
    )
    number, identity = line["job"], Identity(**line["identity"])
    if type(number) is not int or number < 0 or line["id"] != identity.id:
        raise TypeError(f"job {number!r} with id {line['id']!r}")
    return Job(number, asked, identity, Path(os.path.normpath(sweep / line["directory"])), line["twin"])


def read_whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        content = path.read_text(errors="replace")
    except OSError:
        return
    *lines, torn = content.split("\n")  # not splitlines: JSON leaves U+2028 and its like as they are
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {path} is damaged; give the sweep's command again") from error
    with suppress(json.JSONDecodeError):  # torn when it was written: what it would have said had not begun
        yield json.loads(torn)


def link_run(sweep: Path, job: Job) -> None:
    """`<n>-<id8>` in the sweep's directory, pointing to a run that lies elsewhere."""
    run = job.directory
    if run.resolve().is_relative_to(sweep.resolve()):
        return
    place = sweep / f"{job.number}-{job.identity.id}"
    target = os.path.relpath(run, sweep)
    if place.is_symlink() and os.readlink(place) == target:
        return
    for old in sweep.glob(f"{job.number}-*"):
        if old.is_symlink():  # of other code or other data
            old.unlink(missing_ok=True)
    with suppress(FileExistsError):  # another process shares the sweep
        place.symlink_to(target, target_is_directory=True)


def job_monitor(job: Job) -> tuple[str | None, str | None]:
    """The name of the monitored score, and whether `max` or `min` of it is best: as the run found them, or else as the
    config gives them, None where it leaves them to the task."""
    if resolved := read_json(job.directory / "manifest.json", {}).get("monitor"):
        return resolved["name"], resolved["mode"]
    return job.asked.config["monitor"], job.asked.config["mode"]


def job_results(job: Job) -> dict[str, float]:
    return read_json(job.directory / "results.json", {})
