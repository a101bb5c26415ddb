"""lab doctor: prints versions, devices, and missing packages."""

import argparse
import importlib
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from lab.cli.output import align_columns
from lab.cli.warm import describe as describe_warm
from lab.version import __version__

REQUIRED = (
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
    "scipy",
    "simplejpeg",
)
# packages that only one option needs, with that option
OPTIONAL = {
    "timm": "model=timm",
    "transformers": "model=huggingface",
    "tokenizers": "data=text_csv, parallel_text, text_corpus or chat",
    "sacrebleu": "task=translation",
    "faster-coco-eval": "task=detection",
    "bitsandbytes": "finetune_strategy=qlora or optimizer=adamw8bit",
    "optuna": "search=",
    "hydra-joblib-launcher": "hydra/launcher=joblib",
    "hydra-submitit-launcher": "hydra/launcher=submitit_local or submitit_slurm",
    "hydra-ray-launcher": "hydra/launcher=ray",
}


def main(arguments: list[str]) -> int:
    argparse.ArgumentParser("lab doctor", description="Versions, devices, and what is missing.").parse_args(arguments)
    rows = [["lab", __version__], ["python", f"{platform.python_version()} ({sys.executable})"]]
    problems = []
    for name in REQUIRED:
        try:
            rows.append([name, metadata.version(name)])
        except metadata.PackageNotFoundError:
            rows.append([name, "missing"])
            problems.append(f"{name} is missing; pip install {name}")
    for name, option in OPTIONAL.items():
        try:
            rows.append([name, metadata.version(name)])
        except metadata.PackageNotFoundError:
            rows.append([name, f"not installed; only {option} needs it: pip install {name}"])
    warm = describe_warm() if sys.platform == "linux" else ""  # before torch is imported, which sets variables
    for module in ("torch", "torchvision"):
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken build may raise anything
            problems.append(f"import {module} fails: {error}; torch and torchvision must be built for each other")
    if not problems:
        rows += device_rows()
    for variable, default in (("LAB_DATA", "data"), ("LAB_OUTPUTS", "outputs")):
        path = Path(os.environ.get(variable, default))
        rows.append([variable, f"{path} ({'exists' if path.is_dir() else 'does not exist'})"])
    if sys.platform == "linux":
        rows.append(["warm", warm or "no process; lab warm keeps one, so that commands begin at once"])
    rows.append(["disk", f"{shutil.disk_usage('.').free / 1e9:.0f} GB free"])
    print(align_columns(rows))
    for problem in problems:
        print(f"lab: {problem}", file=sys.stderr)
    return 1 if problems else 0


def device_rows() -> list[list[str]]:
    """Rows of the devices that torch can use."""
    import torch

    from lab.hardware import available_devices

    rows = [
        ["devices", ", ".join(available_devices())],
        ["cores", f"{os.cpu_count()} ({torch.get_num_threads()} threads)"],
    ]
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        rows.append([f"cuda:{number}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB"])
    return rows
