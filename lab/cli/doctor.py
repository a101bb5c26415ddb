"""lab doctor: what this machine has, and what is missing."""

import argparse
import importlib
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from lab import __version__
from lab.cli.output import align_columns

NEEDED = (
    "torch",
    "torchvision",
    "hydra-core",
    "omegaconf",
    "tensorboard",
    "numpy",
    "pillow",
    "pyarrow",
    "rich",
    "safetensors",
    "scikit-learn",
)
# and what asks for it
OPTIONAL = {
    "timm": "model=timm",
    "transformers": "model=huggingface",
    "optuna": "search=",
    "hydra-joblib-launcher": "hydra/launcher=joblib",
    "hydra-submitit-launcher": "hydra/launcher=submitit_local or submitit_slurm",
    "hydra-ray-launcher": "hydra/launcher=ray",
}


def main(arguments: list[str]) -> int:
    argparse.ArgumentParser("lab doctor", description="Versions, devices, and what is missing.").parse_args(arguments)
    lines = [["lab", __version__], ["python", f"{platform.python_version()} ({sys.executable})"]]
    problems = []
    for name in NEEDED:
        try:
            lines.append([name, metadata.version(name)])
        except metadata.PackageNotFoundError:
            lines.append([name, "missing"])
            problems.append(f"{name} is missing; pip install {name}")
    for name, use in OPTIONAL.items():
        try:
            lines.append([name, metadata.version(name)])
        except metadata.PackageNotFoundError:
            lines.append([name, f"not there; only {use} needs it: pip install {name}"])
    for module in ("torch", "torchvision"):
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a broken build raises
            problems.append(f"import {module} fails: {error}; the two must be built for each other")
    if not problems:
        lines += device_rows()
    for variable, default in (("LAB_DATA", "data"), ("LAB_OUTPUTS", "outputs")):
        path = Path(os.environ.get(variable, default))
        lines.append([variable, f"{path} ({'there' if path.is_dir() else 'not there'})"])
    lines.append(["disk", f"{shutil.disk_usage('.').free / 1e9:.0f} GB free"])
    print(align_columns(lines))
    for problem in problems:
        print(f"lab: {problem}", file=sys.stderr)
    return 1 if problems else 0


def device_rows() -> list[list[str]]:
    import torch

    from lab.hardware import available_devices

    lines = [
        ["devices", ", ".join(available_devices())],
        ["cores", f"{os.cpu_count()} ({torch.get_num_threads()} threads)"],
    ]
    for number in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(number)
        lines.append([f"cuda:{number}", f"{of.name}, {of.total_memory / 2**30:.0f} GiB"])
    return lines
