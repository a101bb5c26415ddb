"""Whether two checkouts of lab train the same configs to the same bits.

python benchmarks/same_bits.py BEFORE AFTER     two folders, each with lab/ and conf/ (a git worktree, say)

Each config is trained by `python -m lab train` of each checkout in a directory of its own. Compared are the model's and
the scored model's tensors in checkpoints/last.pt and best.pt, metrics.jsonl, and results.json without what steps cost.
Exits with 1 where anything differs.
"""

import argparse
import hashlib
import json
import os
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
    for config in CONFIGS:
        with tempfile.TemporaryDirectory(prefix="lab-bits-") as folder:
            runs = [
                train(checkout.resolve(), config, Path(folder) / name)
                for checkout, name in ((arguments.before, "before"), (arguments.after, "after"))
            ]
            differences = list(compare(*map(contents, runs)))
        num_different += bool(differences)
        print(f"{'differs' if differences else 'same'}  {config or 'the defaults'}", flush=True)
        for difference in differences[:5]:
            print(f"    {difference}")
    print(f"{len(CONFIGS) - num_different} of {len(CONFIGS)} configs train to the same bits")
    return 1 if num_different else 0


def train(checkout: Path, config: str, directory: Path) -> Path:
    """Train a config with the code of a checkout; the run's directory. Raises RuntimeError where it fails."""
    directory.mkdir()
    command = [sys.executable, "-m", "lab", "train", *SHORT, *config.split(), "logger=none"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "LAB_OUTPUTS": str(directory), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{checkout}: {config or 'the defaults'} ended with {ended.returncode}:\n{ended.stderr}")
    (results,) = directory.glob("runs/**/results.json")
    return results.parent


def contents(run: Path) -> dict[str, Any]:
    """What a run computed, by name."""
    results = json.loads((run / "results.json").read_text())
    found: dict[str, Any] = {name: value for name, value in results.items() if not name.startswith("hardware/")}
    found["metrics.jsonl"] = (run / "metrics.jsonl").read_text()
    for file in sorted((run / "checkpoints").glob("*.pt")):
        state = torch.load(file, map_location="cpu", weights_only=True)
        parts = {"model": state["run"]["model"], "scored": state.get("scored", {})} if "run" in state else state
        tensors = {name: digest(value) for name, value in leaves(parts) if isinstance(value, Tensor)}
        found |= {f"{file.name}{name}": value for name, value in tensors.items()}
    return found


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{name} {key}")
    else:
        yield name, value


def digest(tensor: Tensor) -> str:
    content = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:12]


def compare(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            yield f"{name}: {before.get(name)} before, {after.get(name)} after"


if __name__ == "__main__":
    sys.exit(main())
