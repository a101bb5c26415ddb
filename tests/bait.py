"""Calls with bait, under an audit hook, everything that a config may name of installed packages. Run as a program in an
empty directory: it prints what the rule admits, and what took the bait, as JSON."""

import contextlib
import importlib
import inspect
import json
import os
import pickle
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "transformers", "optuna")
WATCHED = (
    "open",
    "exec",
    "compile",
    "import",
    "subprocess.",
    "pickle.",
    "os.",
    "shutil.",
    "socket.",
    "urllib.",
    "ctypes.",
)
MARK = "lab_canary"
SUSPECT = re.compile(
    "path|file|url|uri|weights|checkpoint|cfg|config|dir|cache|pretrained|module|code|source|load|import"
)
MODELS_PER_MODULE = 1  # functions called of each module of torchvision and timm; the others there are like them


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (f"{MARK}_was_unpickled",)


def import_everything() -> None:
    """Import the modules of the libraries, and those of torch that make objects of strings."""
    from lab.config.groups import LIBRARIES

    for name in ("torch.fx", "torch.jit", "torch.package", "torch.export", "torch.hub", "torch.onnx", "transformers"):
        importlib.import_module(name)
    for library in LIBRARIES:
        package = importlib.import_module(library if library != "timm.create_model" else "timm")
        for child in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{package.__name__}."):
            try:
                importlib.import_module(child.name)
            except ImportError:  # needs an optional package
                continue


def admitted_targets() -> dict[str, Any]:
    """Every class and function of these packages and of the standard library the rule admits, by its shortest path."""
    import torch

    from lab.config.annotations import NodeKinds
    from lab.config.trust import ALL_GROUPS, find_loaded, is_beside, is_in_library, locate_trusted, may_import
    from lab.errors import ConfigError

    kinds = NodeKinds((torch.nn.Module, torch.optim.Optimizer), is_open=True)
    admitted: dict[int, tuple[str, Any]] = {}
    for path, value in sorted(callables_of_modules(), key=lambda named: len(named[0])):
        if not may_import(path):
            loaded = find_loaded(path)
            assert loaded is None or not is_beside(loaded, kinds.classes), path
            continue
        assert is_in_library(path), path
        if id(value) in admitted:
            continue
        for group in ALL_GROUPS:
            try:
                admitted[id(value)] = path, locate_trusted(path, group, kinds)
                break
            except ConfigError:
                continue
    return dict(admitted.values())


def callables_of_modules() -> Iterator[tuple[str, Any]]:
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] in (*PACKAGES, *sys.stdlib_module_names) and module is not None:
            for attribute, value in list(vars(module).items()):
                if callable(value) and not attribute.startswith("__"):
                    yield f"{name}.{attribute}", value


def call_with_bait(target: Any, bait: str) -> None:
    """Call with the bait as each argument that a config may give: the required ones, all, and each that sounds as if it
    were opened, imported or called."""
    from lab.config.trust import unsafe_argument_problems

    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named] + [
        "weights",
        "checkpoint_path",
        "pretrained_cfg",
        "cache_dir",
        "norm_layer",
        "file",
    ]
    required = [p.name for p in named if p.default is p.empty]
    suspects = [name for name in names if SUSPECT.search(name)] if inspect.isclass(target) else []
    for value in (bait, f"local-dir:{bait}", [bait], {bait: bait}) if inspect.isclass(target) else (bait,):
        allowed = {name for name in names if not unsafe_argument_problems(target, {name: value}, "node")}
        # not without any bait, which would make a whole model
        for chosen in (*([required] if required else []), names, *([*required, name] for name in suspects)):
            arguments = {name: value for name in chosen if name in allowed}
            if not arguments:
                continue
            try:
                target(**arguments)
            except (Exception, SystemExit):
                continue


def main() -> None:
    warnings.simplefilter("ignore")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TORCH_HOME": str(Path.cwd() / "hub")}
    bait = Path.cwd() / f"{MARK}.pt"
    bait.write_bytes(pickle.dumps(Evil()))
    Path(f"{MARK}_module.py").write_text("import os; os.mkdir('lab_canary_was_imported')")
    sys.path.insert(0, os.getcwd())
    import torch

    import_everything()
    import timm.layers.weight_init

    from lab.config import trust

    # what takes long, and neither judges nor takes anything
    trust.suggest = lambda *_: ""
    inspect.signature = cache(inspect.signature)
    timm.layers.weight_init._trunc_normal_ = lambda tensor, *_: tensor
    admitted = admitted_targets()
    taken: set[str] = set()
    current = ""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(WATCHED) and MARK in repr(arguments):
            taken.add(f"{current} {event}")

    sys.addaudithook(watch)
    called: dict[str, int] = {}
    with torch.device("meta"):
        for current, target in sorted(admitted.items()):
            if not inspect.isclass(target) and current not in ("timm.create_model",):
                called[target.__module__] = called.get(target.__module__, 0) + 1
                if called[target.__module__] > MODELS_PER_MODULE:
                    continue
            for value in (str(bait), f"{MARK}_module", f"__import__('os').mkdir('{MARK}_was_run')"):
                call_with_bait(target, value)
    result = {"admitted": sorted(admitted), "taken": sorted(taken), "left": sorted(os.listdir("."))}
    taken.clear()  # then what the rule refuses, to show that the hook sees what takes the bait
    refused = {"load": partial(torch.load, weights_only=False), "import": importlib.import_module, "eval": eval}
    for name, target in refused.items():
        current = name
        for value in (str(bait), f"{MARK}_module", f"{MARK}_was_run"):
            with contextlib.suppress(Exception):
                target(value)
    print(json.dumps(result | {"taken_by_refused": sorted(taken)}))


if __name__ == "__main__":
    main()
