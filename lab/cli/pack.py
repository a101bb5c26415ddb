"""lab pack: a run or a sweep as one archive."""

import tarfile
from pathlib import Path
from typing import Any

from lab.cli.arguments import command_parser, parse_arguments, read_all_runs
from lab.errors import ConfigError, Refused
from lab.ledger.listing import find_run_or_sweep, is_sweep
from lab.record.files import is_locked
from lab.text import relative_to_cwd

EPILOG = """The archive holds the folders as they lie below outputs/, with relative paths and links alone. Elsewhere:

  tar -xf FILE -C outputs && lab ls outputs
"""
LEFT_OUT = (".lock",)


def main(arguments: list[str]) -> int:
    parser = command_parser("pack", "A run or a sweep as one archive that another machine can read.", EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's or a sweep's directory, name or id")
    parser.add_argument("file", type=Path, metavar="FILE", help="archive to write: .tar, .tar.gz or .tar.xz")
    options = parse_arguments(parser, arguments)
    runs = [run.directory.resolve() for run in read_all_runs(options.run, options.outputs)]
    found = find_run_or_sweep(options.run, options.outputs)
    sweeps = [found.resolve()] if found is not None and is_sweep(found) else []
    if busy := [run for run in runs if is_locked(run)]:
        raise Refused(f"a process is working in {relative_to_cwd(busy[0])}; wait for it to end")
    if options.file.exists():
        raise ConfigError(f"{options.file} exists; give another file, or remove it")
    outputs = options.outputs.resolve()
    mode: Any = {".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz"}.get(options.file.suffix, "w")
    try:
        with tarfile.open(options.file, mode) as archive:
            for folder in dict.fromkeys([*runs, *sweeps]):
                name = folder.relative_to(outputs) if folder.is_relative_to(outputs) else Path("runs") / folder.name
                archive.add(folder, str(name), filter=without_owner)
    except OSError as error:
        raise ConfigError(f"cannot write {options.file}: {error.strerror or error}") from error
    megabytes = options.file.stat().st_size / 1e6
    print(f"{options.file}: {len(runs)} {'run' if len(runs) == 1 else 'runs'}, {megabytes:.1f} MB")
    return 0


def without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """A member without the names of this machine's users; None for locks, and for links that leave the archive."""
    if Path(member.name).name in LEFT_OUT or (member.issym() and Path(member.linkname).is_absolute()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
