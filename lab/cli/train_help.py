"""The page of lab train --help, read from the YAML files alone: groups, options and keys with their comments. It
composes nothing, so it needs neither torch nor Hydra."""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from lab.config.studies import find_study_files, is_study_file
from lab.yaml_aliases import load_yaml

COMPOSING = {  # commands that take a config, with their first line
    "train": "Train one model, or sweep with -m.",
    "plan": "Which runs of a sweep exist, which are new, and what they cost; starts nothing.",
    "check": "Try a config or a sweep, start nothing; --resume: does it go on in the same bits after a kill?",
}
NODE_KEYS = re.compile(r"^(_target_|_partial_|_convert_|_recursive_):")


def train_help(verb: str, arguments: Sequence[str]) -> str | None:
    """The page of a command that takes a config; None for other commands, and where the arguments configure Hydra's own
    help.  arguments: their choices of options decide which keys are shown."""
    if verb not in COMPOSING or any(word.startswith("hydra") for word in arguments):
        return None
    groups = find_groups()
    text = find_primary()
    defaults: dict[str, str] = dict(re.findall(r"^  - (?:optional )?([a-z_]+): (\S+)", text, re.MULTILINE))
    given = dict(word.split("=", 1) for word in arguments if "=" in word and not word.startswith("-"))
    studies = find_study_files()
    if experiment := studies.get(given.get("experiment", "")):
        defaults |= dict(
            re.findall(r"^  - override /(\w+): (\S+)", experiment.read_text(encoding="utf-8"), re.MULTILINE)
        )
    chosen = {group: given.get(group, option) for group, option in defaults.items()}
    lines = [
        f"lab {verb} [group=option] [key=value] [-m]",
        "",
        f"{COMPOSING[verb]} Choose options with group=option, change any key with key=value.",
        "",
        "Groups (* is chosen)",
        *group_lines(groups, chosen),
        "",
        "Experiments",
        *experiment_lines(studies),
        "",
        "Keys",
        *key_lines(text.partition("\n\n")[2].partition("\nhydra:")[0]),
    ]
    for group, option in chosen.items():
        if path := groups.get(group, {}).get(option):
            lines += ["", f"{group}: {option}", *key_lines(path.read_text(encoding="utf-8"), node=True)]
    examples = load_yaml(conf_folder() / "hydra" / "help" / "lab.yaml")["footer"]
    return "\n".join([*lines, "", examples.rstrip()])


def find_primary() -> str:
    own = Path("conf") / "train.yaml"
    return (own if own.is_file() else conf_folder() / "train.yaml").read_text(encoding="utf-8")


def conf_folder() -> Path:
    return Path(str(resources.files("lab.conf")))


def find_groups() -> dict[str, dict[str, Path]]:
    """The file of each option by group and name, those of the working directory in front of lab's own."""
    groups: dict[str, dict[str, Path]] = {}
    for root in (conf_folder(), Path("conf")):
        for path in sorted(root.glob("*/**/*.yaml")):
            group = path.parent.relative_to(root).as_posix()
            if not group.startswith("hydra") and not f"/{path.relative_to(root)}".count("/."):
                groups.setdefault(group, {})[path.stem] = path
    return groups


def group_lines(groups: Mapping[str, Mapping[str, Path]], chosen: Mapping[str, str]) -> list[str]:
    lines = []
    for group, options in sorted(groups.items()):
        lines.append(f"  {group}")
        width = max(map(len, options))
        for option, path in sorted(options.items()):
            mark = "*" if chosen.get(group) == option else " "
            lines.append(f"   {mark} {option:<{width}}  {first_comment(path)}".rstrip())
    return lines


def experiment_lines(studies: Mapping[str, Path]) -> list[str]:
    names = {name: path for name, path in studies.items() if not is_study_file(path)}
    width = max(map(len, names), default=0)
    return [f"    {name:<{width}}  {first_comment(path)}".rstrip() for name, path in names.items()]


def first_comment(path: Path) -> str:
    """What a YAML says of itself in its first comment that is no directive: an example, and what it is."""
    comments = [line for line in path.read_text(encoding="utf-8").splitlines()[:4] if line.startswith("# ")]
    text = next((line[2:] for line in comments if not line.startswith("# @")), "")
    text = text.removeprefix("lab train ")
    return re.sub(r"^experiment=\S+\s*", "", text)


def key_lines(text: str, node: bool = False) -> list[str]:
    """The keys of a YAML with their values and comments, as they are written there.  node: whether it is that of an
    option, whose first comment and whose target are left out."""
    lines = [line for line in text.splitlines() if line.strip()]
    if node:
        lines = [line for line in lines if not line.startswith("# ") and not NODE_KEYS.match(line)]
    return [f"  {line}" for line in lines]
