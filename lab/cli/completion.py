"""Tab completion of verbs, runs, studies and flags; Hydra completes groups, options and keys. Imports nothing heavy."""

import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

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
RUN_VERBS = ("show", "diff", "resume", "retry", "eval", "adapter", "rerun", "report", "ls")
SWEEP_VERBS = ("show", "resume", "retry", "report", "ls")
STUDY_VERBS = {"ablate": "factors:", "reproduce": "claims:"}
FLAGS = {
    "check": ("--resume",),
    "rank": ("--json",),
    "resume": ("--workers", "--anyway"),
    "retry": ("--workers", "--anyway"),
    "eval": ("--json",),
    "ls": ("--json",),
    "show": ("--json",),
    "diff": ("--json",),
    "report": ("--by", "--pair", "--metric", "--mode", "--baseline", "--tasks", "--checklist", "--to", "--out"),
    "ablate": ("--seeds", "--plan", "--to", "--out"),
    "reproduce": ("--seeds", "--plan", "--lock", "--all"),
    "decide": ("--at-least", "--up-to", "--metric", "--mode", "--first-seed", "--race"),
}
HYDRA_FLAGS = ("-m", "--cfg", "--info", "--resolve", "--help")


def complete(verbs: Iterable[str]) -> bool:
    """Print the completions of the line in COMP_LINE; or, where Hydra completes the rest, remove the verb and its own
    arguments from the line. Gives whether the completion is finished, without Hydra."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    typed = words[-1] if words and not line.endswith(" ") else ""
    given = words[1 : len(words) - bool(typed)]  # whole words after `lab`
    if not given:
        found = [verb for verb in verbs if verb.startswith(typed)]
        if typed and ("=" in typed or not found):
            return False  # lab model=mlp is lab train model=mlp
        print(" ".join(found))
        return True
    verb, *arguments = given
    if verb not in verbs:
        return False
    arguments = [argument for argument in arguments if not argument.startswith("-")]
    if typed.startswith("-"):
        flags = [*FLAGS.get(verb, ()), *(HYDRA_FLAGS if OVERRIDES_AFTER.get(verb) == 0 else ("--help",))]
        print(" ".join(flag for flag in dict.fromkeys(flags) if flag.startswith(typed)))
        return True
    after = OVERRIDES_AFTER.get(verb)
    if after is not None and (len(arguments) >= after):
        os.environ["COMP_LINE"] = " ".join([words[0], *arguments[after:], typed])
        return False
    names = study_names(STUDY_VERBS[verb]) if verb in STUDY_VERBS else run_names(verb) if verb in RUN_VERBS else ()
    print(" ".join(name for name in dict.fromkeys(names) if name.startswith(typed)))
    return True


def run_names(verb: str) -> Iterable[str]:
    """The ids of the runs in `outputs`, those of sweeps too where the verb takes them. Only names are read."""
    from lab.config.outputs import split_outputs
    from lab.ledger.listing import runs_by_id

    outputs = split_outputs([])[0]
    yield from runs_by_id(outputs / "runs")
    if verb in SWEEP_VERBS:
        yield from (path.parent.name[-8:] for path in outputs.glob("sweeps/*/plan.jsonl"))


def study_names(key: str) -> Iterable[str]:
    """The ablations or the papers in the experiments of this directory and of lab."""
    for root in (Path.cwd() / "experiments", Path(str(resources.files("lab.experiments")))):
        for path in sorted(root.glob("*/*.yaml")):
            if f"\n{key}" in path.read_text(encoding="utf-8", errors="replace"):
                yield path.parent.name if key == "claims:" else f"{path.parent.name}/{path.stem}"
