"""The house in order: imports point down the ladder that ARCHITECTURE.md draws, no name means two things."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

FLOORS = (
    ("cli", "library"),
    ("hydra_app", "warm"),
    ("sweep", "model_selection", "report"),
    ("execution",),
    ("assembly", "identity"),
    ("config",),
    ("ledger",),
    ("record",),
    ("train",),
    ("run",),
    ("hardware",),
    ("data", "augment", "tasks", "optim", "finetune", "regularize"),
    ("activation_checkpointing", "distributed"),
    ("models",),
    ("metrics", "pictures", "statistics"),
    ("yaml_aliases",),
    ("errors",),
    ("text", "redact", "nest", "seeding", "signatures", "user_cache", "interpreter", "version"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
HYDRA_ROOMS = {"config", "hydra_app"}
TORCH_FREE_ROOMS = {
    "cli",
    "hydra_app",
    "sweep",
    "execution",
    "identity",
    "config",
    "ledger",
    "errors",
    "text",
    "library",
    "report",
    "statistics",
    "warm",
}
TORCH_FREE_FILES = {
    "files.py",
    "status.py",
    "environment.py",
    "names.py",
    "scores.py",
    "preflight_report.py",
    "stop.py",
}
TORCH_FILES = {"script.py"}  # of a torch-free room: a script has imported torch already
# names that several modules define: the entry point of each command, and a target of two config groups
SHARED_NAMES = {"main", "chain"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether at the top of the file) of each import."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in tree.body) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            module = node.module or ""
            yield module, node in tree.body
            yield from ((f"{module}.{alias.name}", node in tree.body) for alias in node.names)


def sources() -> Iterator[tuple[Path, str]]:
    """(path, room) of each module; a room is a folder, or a file that lies in none."""
    for path in sorted((ROOT / "lab").glob("**/*.py")):
        room = path.relative_to(ROOT / "lab").parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):
            yield path, room


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_room_has_its_floor():
    assert {room for _, room in sources()} == set(FLOOR)


def test_an_import_stays_in_its_room_or_points_down():
    for path, room in sources():
        for module, _ in imports(path):
            top, _, rest = module.partition(".")
            other = rest.split(".")[0]
            if top == "lab" and other in FLOOR and other != room:
                assert FLOOR[other] > FLOOR[room], f"{path} imports {module}, which does not lie below it"


def test_no_modules_import_each_other_in_a_circle():
    modules = {module_name(path): path for path, _ in sources()}
    graph = {name: {m for m, _ in imports(path) if m in modules and m != name} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_hydra_and_omegaconf_stay_in_their_rooms():
    for path, room in sources():
        if room not in HYDRA_ROOMS:
            top_level = {module.split(".")[0] for module, top in imports(path) if top}
            assert not top_level & {"hydra", "omegaconf"}, path
            if room not in ("assembly", "identity"):
                deferred = {module.split(".")[0] for module, _ in imports(path)}
                assert not deferred & {"hydra", "omegaconf"}, path


def test_what_only_plans_or_reads_imports_no_torch_at_the_top():
    for path, room in sources():
        is_free = (room in TORCH_FREE_ROOMS and path.name not in TORCH_FILES) or path.name in TORCH_FREE_FILES
        assert not (is_free and "torch" in {module.split(".")[0] for module, top in imports(path) if top}), path


def test_importing_lab_costs_no_torch():
    code = "import sys, lab; assert 'torch' not in sys.modules; lab.Run; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_name_means_one_thing():
    defined = defaultdict(set)
    for path, _ in sources():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined[node.name].add(module_name(path))
    twice = {
        name: sorted(modules) for name, modules in defined.items() if len(modules) > 1 and name not in SHARED_NAMES
    }
    assert not twice


def test_functions_fit_into_one_look_and_files_into_one_sitting():
    for path, _ in sources():
        text = path.read_text()
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def test_text_files_have_an_encoding_whatever_the_locale():
    without = []
    for path, _ in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or any(keyword.arg in ("encoding", None) for keyword in node.keywords):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            is_text_open = isinstance(node.func, ast.Name) and name == "open" and not any("b" in mode for mode in modes)
            if name in ("read_text", "write_text") or is_text_open:
                without.append(f"{path.name}:{node.lineno}")
    assert not without
