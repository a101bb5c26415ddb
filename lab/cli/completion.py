"""Tab completion of verbs, runs, studies and flags; Hydra completes groups, options and keys. Imports nothing heavy."""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import redirect_stdout
from glob import escape, glob
from io import StringIO
from itertools import islice
from pathlib import Path

from lab.user_cache import Index

# verbs whose arguments are overrides, after this many arguments of their own
OVERRIDES_AFTER = {
    "train": 0,
    "plan": 0,
    "check": 0,
    "rank": 0,
    "eval": 1,
    "rerun": 1,
    "ablate": 1,
    "reproduce": 1,
    "decide": 2,
}
RUN_VERBS = (
    "show",
    "diff",
    "resume",
    "retry",
    "eval",
    "predict",
    "export",
    "adapter",
    "rerun",
    "report",
    "ls",
    "tag",
    "note",
    "rm",
    "pack",
)
SWEEP_VERBS = ("show", "resume", "retry", "report", "ls", "rm", "pack")
STUDY_VERBS = {"ablate": "factors", "reproduce": "claims"}  # the key of their files
FLAGS = {
    "check": ("--resume",),
    "rank": ("--json",),
    "resume": ("--workers", "--anyway"),
    "retry": ("--workers", "--anyway"),
    "eval": ("--json",),
    "predict": ("--draw", "--file", "--json"),
    "ls": ("--json", "--where", "--sort", "--columns"),
    "tag": ("--remove",),
    "rm": ("--where", "--dry-run", "--yes"),
    "gc": ("--keep", "--budget", "--cache", "--dry-run", "--yes"),
    "show": ("--json",),
    "diff": ("--json",),
    "report": ("--by", "--pair", "--metric", "--mode", "--baseline", "--tasks", "--checklist", "--to", "--out"),
    "ablate": ("--seeds", "--plan", "--to", "--out"),
    "reproduce": ("--seeds", "--plan", "--lock", "--all"),
    "warm": ("--stop",),
    "decide": ("--at-least", "--up-to", "--metric", "--mode", "--first-seed", "--race"),
}
HYDRA_FLAGS = ("-m", "--multirun", "--cfg", "--config-name", "--info", "--package", "--resolve", "--help")
SWITCHES = (
    "--resume",
    "--json",
    "--anyway",
    "--checklist",
    "--plan",
    "--all",
    "--race",
    "--remove",
    "--dry-run",
    "--yes",
    "--cache",
    "--stop",
)  # flags without a value
HYDRA_SWITCHES = ("-m", "--multirun", "-r", "--resolve", "-h", "--help")
CFG_KINDS = ("job", "hydra", "all")
# Hydra's script for zsh needs bash's completion, which zsh loads only when asked
ZSH_PRELUDE = """autoload -Uz +X compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit"""


def complete(verbs: Collection[str], shell: str) -> bool:
    """Print the completions of the line in COMP_LINE, one a line; or, where Hydra completes the rest, remove the verb,
    its own arguments and its flags from the line. Gives whether the completion is finished, without Hydra.

    shell: `bash`, which completes paths itself where nothing else fits, or `fish`, which does not.
    """
    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    line = line[: int(point)] if point.isdecimal() else line  # up to the cursor
    os.environ["COMP_LINE"] = line
    words = line.split()
    typed = words[-1] if words and not line.endswith((" ", "\t")) else ""
    given = words[1 : len(words) - bool(typed)]  # whole words after `lab`
    if not given:
        matching = [verb for verb in verbs if verb.startswith(typed)]
        if typed and ("=" in typed or not matching):
            return False  # lab model=mlp is lab train model=mlp
        print("\n".join(matching))
        return True
    verb, *rest = given
    if verb not in verbs:
        return False
    arguments, flag = split_flags(rest)
    if flag is not None:
        names = flag_values(flag)
    elif typed.startswith("-"):
        names = [*FLAGS.get(verb, ()), *(HYDRA_FLAGS if OVERRIDES_AFTER.get(verb) == 0 else ("--help",))]
    elif len(arguments) >= OVERRIDES_AFTER.get(verb, len(words)):
        os.environ["COMP_LINE"] = " ".join([words[0], *arguments[OVERRIDES_AFTER[verb] :], typed])
        return False
    elif verb in STUDY_VERBS:
        names = study_names(STUDY_VERBS[verb])
    else:
        names = run_names(verb, typed, rest) if verb in RUN_VERBS else ()
    matching = [name for name in dict.fromkeys(names) if name.startswith(typed)]
    print("\n".join(matching or (path_names(typed) if shell == "fish" else ())))
    return True


def complete_overrides(shell: str, ask_hydra: Callable[[], int]) -> int:
    """Print Hydra's completions of the line in COMP_LINE, as `complete` has left it. They are kept in the user's cache
    for as long as no file of a config changes. Gives the exit code.

    ask_hydra: function that prints the completions of that line, which takes it half a second.
    """
    *words, typed = os.environ["COMP_LINE"].split(" ")
    if re.match(r"[^=]*=[./~\\]", typed):  # a path: files come and go
        return ask_hydra()
    simple = re.match(r"([\w.]*[.]|[\w/]+=|)(?=\w*$)", typed)
    stem = simple[0] if simple else typed  # what follows only chooses among the completions of this
    index = Index("completions")
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith("LAB_"))
    facts = (shell, words, stem, sys.executable, variables, config_stamps())
    key = hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()[:24]
    found = index.kept.get(key)
    if not isinstance(found, list):
        os.environ["COMP_LINE"] = " ".join([*words, stem])
        output = StringIO()
        with redirect_stdout(output):
            if code := ask_hydra():
                return code
        found = index.now[key] = output.getvalue().split()
        index.write(most=2000)
    print("\n".join(name for name in found if str(name).startswith(typed)))
    return 0


def config_stamps() -> list[tuple[str, int, int]]:
    """Time and size of every file that configs are composed from."""
    lab = Path(__file__).parent.parent
    roots = {os.path.join(root, name) for root in (lab, lab.parent, os.getcwd()) for name in ("conf", "experiments")}
    stamps, folders = [], [*filter(os.path.isdir, roots)]
    for folder in islice(folders, 1000):  # the list grows while it is read, without end where links lead in a circle
        for entry in os.scandir(folder):
            if entry.is_dir():
                folders.append(entry.path)
            elif entry.name.endswith(".yaml"):
                facts = entry.stat()
                stamps.append((entry.path, facts.st_mtime_ns, facts.st_size))
    return sorted(stamps)


def split_flags(words: Iterable[str]) -> tuple[list[str], str | None]:
    """The words without flags and their values, and the flag whose value comes next; None where none does."""
    arguments, flag = [], None
    for word in words:
        if flag is not None:
            flag = None
        elif not word.startswith("-"):
            arguments.append(word)
        elif "=" not in word and word not in (*SWITCHES, *HYDRA_SWITCHES):
            flag = word
    return arguments, flag


def flag_values(flag: str) -> Iterable[str]:
    """The values that are known of a flag."""
    if flag in ("--cfg", "-c"):
        return CFG_KINDS
    if flag in ("--config-name", "-cn"):
        return sorted(path.stem for path in Path("conf").glob("*.yaml"))
    return ()


def run_names(verb: str, typed: str, words: Iterable[str]) -> list[str]:
    """The ids of the runs in the outputs folder, those of sweeps too where the verb takes them; the names of their
    directories where no id begins as typed.  words: words of the line, which may have `paths.outputs=`."""
    from lab.config.outputs import split_outputs
    from lab.ledger.listing import directory_id, find_runs, find_sweeps

    outputs = split_outputs(list(words))[0]
    directories = [*find_runs(outputs), *(find_sweeps(outputs) if verb in SWEEP_VERBS else ())]
    ids = [directory_id(directory) for directory in directories]
    return ids if any(own_id.startswith(typed) for own_id in ids) else [directory.name for directory in directories]


def path_names(typed: str) -> list[str]:
    """The files and folders whose paths begin as typed; a folder ends with a slash."""
    paths = sorted(glob(f"{escape(typed)}*"))
    return [f"{path}/" if os.path.isdir(path) else path for path in paths]


def study_names(key: str) -> list[str]:
    """The ablations, or the studies with a paper's claims, in the experiments of this directory and of lab."""
    from lab.config.studies import find_study_files, study_keys

    names = [name for name, path in find_study_files().items() if key in study_keys(path)]
    return [name.rpartition("/")[0] for name in names] if key == "claims" else names
