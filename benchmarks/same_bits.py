"""Whether two checkouts of lab train the same configs to the same bits.

python benchmarks/same_bits.py BEFORE AFTER     two folders, each with lab/ and conf/ (a git worktree, say)

`python -m lab train` of each checkout trains each config in an empty directory. What is compared: the tensors of the
model and of the scored model in checkpoints/last.pt and best.pt, metrics.jsonl, and results.json without the cost of
steps. Exits with 1 if anything differs.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SHORT = ("steps=30", "eval_every=10", "save_every=15", "log_every=5")
CONFIGS = (
    "",
    "model=mlp optimizer=adamw schedule=warmup_cosine max_norm=1",
    "model=mlp optimizer=sgd schedule=one_cycle regularize=ema",
    "optimizer=muon schedule=wsd regularize=swa weight_decay_on=matrices",
    "model=mlp regularize=sam augment=mixup seed=3",
    "regularize=chain augment=cutmix",
    "model=resnet20 data.shape=[3,32,32] augment=randaugment",
    "data=synthetic hardware.precision=bf16",
    "data=synthetic augment=flip_crop",
    "data.shape=[3,32,32] model=resnet20 finetune_strategy=lora",
    "data.shape=[3,32,32] model=resnet20 finetune_strategy=gradual finetune_strategy.epochs_per_block=0.2",
    "model=resnet20 data.shape=[3,32,32] finetune_strategy=l2_sp hardware.micro_batch=16",
    "model=torchvision model.name=resnet18 data.shape=[3,32,32] finetune_strategy=discriminative steps=4",
    "model=mlp hardware.activation_checkpointing=true task.label_smoothing=0.1 final=last",
    "model=mlp hardware=ddp hardware.device=cpu hardware.processes=2",
    "model=mlp hardware=fsdp hardware.device=cpu hardware.processes=2",
    "model=mlp overfit=true",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    arguments = parser.parse_args()
    num_different = 0
    with tempfile.TemporaryDirectory(prefix="lab-bits-") as temporary:
        folder = Path(temporary)
        copies = [copy_checkout(arguments.before, folder / "before"), copy_checkout(arguments.after, folder / "after")]
        for number, config in enumerate(CONFIGS):
            runs = [train_config(copy, config, folder / f"{copy.name} {number}") for copy in copies]
            differences = list(compare(*map(read_results, runs)))
            num_different += bool(differences)
            print(f"{'differs' if differences else 'same'}  {config or 'the defaults'}", flush=True)
            for difference in differences[:5]:
                print(f"    {difference}")
    print(f"{len(CONFIGS) - num_different} of {len(CONFIGS)} configs train to the same bits")
    return 1 if num_different else 0


def copy_checkout(checkout: Path, folder: Path) -> Path:
    """The package of a checkout with its configs inside, where Python finds them before those of an installed lab."""
    shutil.copytree(checkout / "lab", folder / "lab")
    for name in ("conf", "experiments"):
        shutil.copytree(checkout / name, folder / "lab" / name)
    return folder


def train_config(checkout: Path, config: str, directory: Path) -> Path:
    """Train a config with the code of a checkout; returns the directory of the run. Raises RuntimeError if it fails."""
    directory.mkdir()
    command = [sys.executable, "-m", "lab", "train", *SHORT, *config.split(), "logger=none"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "LAB_OUTPUTS": str(directory), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"{checkout}: {config or 'the defaults'} ended with {process.returncode}:\n{process.stderr}")
    (results,) = directory.glob("runs/**/results.json")
    return results.parent


def read_results(run: Path) -> dict[str, Any]:
    """The numbers and digests of tensors that a run computed, by name."""
    results = json.loads((run / "results.json").read_text())
    values: dict[str, Any] = {name: value for name, value in results.items() if not name.startswith("hardware/")}
    values["metrics.jsonl"] = (run / "metrics.jsonl").read_text()
    for file in sorted((run / "checkpoints").glob("*.pt")):
        state = torch.load(file, map_location="cpu", weights_only=True)
        parts = {"model": state["run"]["model"], "scored": state.get("scored", {})} if "run" in state else state
        tensors = {name: part for name, part in name_leaves(parts) if isinstance(part, Tensor)}
        values |= {f"{file.name}{name}": hash_tensor(tensor) for name, tensor in tensors.items()}
    return values


def name_leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from name_leaves(part, f"{name} {key}")
    else:
        yield name, value


def hash_tensor(tensor: Tensor) -> str:
    content = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:12]


def compare(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            yield f"{name}: {before.get(name)} before, {after.get(name)} after"


if __name__ == "__main__":
    sys.exit(main())
