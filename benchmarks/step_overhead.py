"""The cost of a step in lab's loop, in a loop written by hand and in Lightning's Trainer, on the same work.

    python benchmarks/step_overhead.py                      # both workloads, about 6 minutes
    python benchmarks/step_overhead.py --workload mlp --repeats 15 --json overhead.json
    pip install -e '.[bench]'                               # adds Lightning to the contenders

mlp has 10k parameters and trains on scikit-learn's digits: steps are short and show the overhead of a loop in full.
resnet20 (He et al.) trains on CIFAR-10 from ${LAB_DATA:-data}/cifar10: steps are long and the overhead should vanish.

All contenders start from the same weights, see the same batches and must end in the same weights and the same loss, lab
in the same bits as the loop by hand, Lightning allclose; otherwise this script says so and exits with 1. Each contender
has its own process. They take turns, once per repeat, in rotated order. The clock is read after step WARMUP and after
the last step, so setup, warm-up and lab's scores and checkpoint at the end are not counted. A ratio is the median over
the repeats of a contender's time divided by that of the loop by hand in the same repeat. If the machine also does other
work, trust the ratio of CPU times.

by hand     uint8 tensors, a permutation an epoch, one index a batch, a fused optimizer, loss.item() every 20 steps.
            tuned: the same with index_select for images[indices] and grad = None for zero_grad, as lab does; the extra
            time of lab over this one is the price of its loop.
lab         lab.train.loop.execute with a Record: checks what is due after each step, writes metrics.jsonl every 20.
Lightning   self.log at each step, to no logger. In its favour: its batches come from the generator of the loop by hand
            (a DataLoader adds 20 us per step), all its steps are one epoch, and see `train_with_lightning`.
            barebones is Trainer(barebones=True), which cannot log.

Expected: lab within 1.05 of the loop by hand on both workloads, within 1.15 of the tuned one on mlp, and its overhead a
small share of that of Lightning.
"""

import argparse
import gc
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from lab.data.cifar10 import cifar10
from lab.data.digits import digits
from lab.data.in_memory import InMemory
from lab.data.synthetic import synthetic
from lab.hardware import Hardware
from lab.models.mlp import MLP
from lab.models.resnet_cifar import ResNet
from lab.optim.schedules import constant
from lab.record.console import Console
from lab.record.record import Record
from lab.run import Cadence, Run, Step
from lab.seeding import make_generator, stream_seed, temporary_seed
from lab.tasks.classification import Classification
from lab.train.loop import execute

SEED, WARMUP, LOG_EVERY = 0, 10, 20
STEPS = {"mlp": 2000, "resnet20": 30}
CONF = Path(__file__).resolve().parents[1] / "conf" / "data"
# glibc returns large tensors to the system and faults them in again at any time: 0 to 100 ms of a resnet20 step
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
CIFAR10 = Path(os.environ.get("LAB_DATA", "data")) / "cifar10"


@dataclass(frozen=True)
class Work:
    """The work of each contender: training on `data` with `optimizer`, from the weights of `initial`."""

    data: InMemory
    initial: nn.Module
    optimizer: Callable[..., torch.optim.Optimizer]


@cache
def make_work(workload: str) -> Work:
    with temporary_seed(stream_seed(SEED, "init")):
        if workload == "mlp":
            adam = partial(torch.optim.Adam, lr=0.001, fused=True)
            return Work(digits(**read_config("digits")), MLP([1, 8, 8], 10, [128]), adam)
        sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True)
        return Work(load_colour_images(), ResNet(3, [3, 32, 32], 10), sgd)


def load_colour_images() -> InMemory:
    if not CIFAR10.is_dir():
        return synthetic(10, [3, 32, 32], batch_size=128, seed=SEED, num_examples=1500)
    return cifar10(**read_config("cifar10") | {"folder": str(CIFAR10), "batch_size": 128, "limit": 1500})


def read_config(data: str) -> dict[str, Any]:
    node = yaml.safe_load((CONF / f"{data}.yaml").read_text())
    return {key: value for key, value in node.items() if key != "_target_"} | {"seed": SEED}


class Clock:
    """Reads wall and CPU time after step WARMUP and after the last step."""

    def __init__(self, steps: int):
        self.steps = steps
        self.readings: list[tuple[float, float]] = []

    def after(self, n: int) -> None:
        if n == WARMUP or n == self.steps:
            self.readings.append((time.perf_counter(), time.process_time()))

    def us_per_step(self) -> tuple[float, float]:
        begun, ended = self.readings
        wall, cpu = (1e6 * (end - begin) / (self.steps - WARMUP) for begin, end in zip(begun, ended, strict=True))
        return wall, cpu


def train_by_hand(work: Work, clock: Clock, tuned: bool = False) -> tuple[nn.Module, Tensor]:
    model = deepcopy(work.initial).train()
    parameters = list(model.parameters())
    optimizer = work.optimizer(parameters)
    for n, (images, labels) in enumerate(batches(work.data, tuned), start=1):
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if tuned:
            for parameter in parameters:
                parameter.grad = None
        else:
            optimizer.zero_grad(set_to_none=True)
        if n % LOG_EVERY == 0:
            loss.item()
        clock.after(n)
        if n == clock.steps:
            return model, loss
    raise AssertionError("the batches have no end")


def batches(data: InMemory, tuned: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches that lab feeds, made without its loop: the seed of an epoch's order and the arithmetic are those of
    lab, for the same bits."""
    images, labels = data.splits["train"]
    epoch = 0
    while True:
        permutation = torch.randperm(len(labels), generator=make_generator(SEED, "order", epoch))
        for indices in permutation.split(data.batch_size)[: data.steps_per_epoch]:
            if tuned:
                yield data.prepare((images.index_select(0, indices), labels.index_select(0, indices)))
            else:
                yield data.prepare((images[indices], labels[indices]))
        epoch += 1


def train_with_lab(work: Work, clock: Clock) -> tuple[nn.Module, Tensor]:
    model = deepcopy(work.initial)
    optimizer = work.optimizer(model.parameters())
    run = Run(
        model=model,
        task=Classification(num_classes=10),
        data=work.data,
        optimizer=optimizer,
        schedule=constant(optimizer),
        # scored and saved only after the last step, when the clock has stopped
        cadence=Cadence(clock.steps, work.data.steps_per_epoch, clock.steps, clock.steps, LOG_EVERY),
        seed=SEED,
        hardware=Hardware("cpu"),
        final="last",
    )
    with TemporaryDirectory() as directory, Console(clock.steps, quiet=True) as console:
        record = TimedRecord(Path(directory), console, clock)
        execute(run, record)
    return model, record.loss


class TimedRecord(Record):
    """A record that reads the clock after each step."""

    def __init__(self, directory: Path, console: Console, clock: Clock):
        super().__init__(directory, console)
        self.clock, self.loss = clock, torch.tensor(torch.nan)

    def step(self, run: Run, step: Step) -> None:
        super().step(run, step)
        self.loss = step.loss
        self.clock.after(step.n)


def train_with_lightning(work: Work, clock: Clock, barebones: bool = False) -> tuple[nn.Module, Tensor]:
    lightning: Any = import_module("lightning.pytorch")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    # The import sets this. On a machine without CUDA it makes torch.cuda.is_available(), which optimizers call in each
    # step, 30 times as slow, and the step 120 us longer: a real cost, but one of the machine.
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss = deepcopy(work.initial), torch.tensor(torch.nan)

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            images, labels = batch
            loss = F.cross_entropy(self.model(images), labels)
            if not barebones:
                self.log("train/loss", loss)
            self.loss = loss.detach()
            return loss

        def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
            clock.after(index + 1)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return work.optimizer(self.model.parameters())

    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = {"barebones": True} if barebones else {**dict.fromkeys(off, False), "log_every_n_steps": LOG_EVERY}
    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=1, max_steps=clock.steps, **options)
    module = Module()
    trainer.fit(module, batches(work.data))
    return module.model, module.loss


CONTENDERS: dict[str, Callable[[Work, Clock], tuple[nn.Module, Tensor]]] = {
    "by hand": train_by_hand,
    "by hand, tuned": partial(train_by_hand, tuned=True),
    "lab": train_with_lab,
    "Lightning": train_with_lightning,
    "Lightning barebones": partial(train_with_lightning, barebones=True),
}


class Outcome(NamedTuple):
    """wall, cpu: time per step in us.  loss: loss of the last step.  state: state of the model at the end."""

    wall: float
    cpu: float
    loss: float
    state: dict[str, np.ndarray]


def measure(contender: str, workload: str, steps: int, threads: int) -> Outcome:
    warnings.simplefilter("ignore")
    Hardware("cpu", threads=threads).setup()
    work, clock = make_work(workload), Clock(steps)
    gc.collect()
    model, loss = CONTENDERS[contender](work, clock)
    wall, cpu = clock.us_per_step()
    return Outcome(wall, cpu, loss.item(), {name: tensor.numpy() for name, tensor in model.state_dict().items()})


def measure_all(
    workload: str, contenders: list[str], repeats: int, steps: int, threads: int
) -> dict[str, list[Outcome]]:
    """The outcome of each repeat, for each contender."""
    # a process for each: what one contender leaves behind must not slow down the next
    os.environ.update(KEEP_MEMORY)
    pools = {name: ProcessPoolExecutor(1, get_context("spawn")) for name in contenders}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        first = repeat % len(contenders)
        for name in contenders[first:] + contenders[:first]:
            outcomes[name].append(pools[name].submit(measure, name, workload, steps, threads).result())
    for pool in pools.values():
        pool.shutdown()
    return outcomes


def find_differences(outcomes: dict[str, list[Outcome]]) -> list[str]:
    """Differences in the losses and weights in which the contenders end."""
    problems = []
    for name, repeats in outcomes.items():
        same = np.allclose if name.startswith("Lightning") else np.array_equal
        for outcome, by_hand in zip(repeats, outcomes["by hand"], strict=True):
            different = [key for key in by_hand.state if not same(outcome.state[key], by_hand.state[key])]
            if different or not same(outcome.loss, by_hand.loss):
                problems.append(
                    f"{name} ends in loss {outcome.loss}, by hand {by_hand.loss}; weights that differ: {different}"
                )
    return problems


def print_times(workload: str, outcomes: dict[str, list[Outcome]]) -> None:
    for name in outcomes:
        row = f"{workload:9} {name:20}"
        for kind in ("wall", "cpu"):
            times, by_hand = (
                np.array([getattr(o, kind) for o in outcomes[contender]]) for contender in (name, "by hand")
            )
            spread = f"({times.min():.1f}..{times.max():.1f})"
            row += f"{np.median(times):11.1f} {spread:21} {np.median(times / by_hand):6.3f}"
        print(row, flush=True)


def print_overhead(outcomes: dict[str, list[Outcome]], beside: str) -> None:
    base, lab, other = (np.array([outcome.cpu for outcome in outcomes[name]]) for name in (beside, "lab", "Lightning"))
    ours, theirs = np.median(lab - base), np.median(other - base)
    print(f"CPU time over {beside}: lab {ours:.1f} us, Lightning {theirs:.1f} us; lab's is {ours / theirs:.1%} of it")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workload", choices=[*STEPS, "all"], default="all")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, help=f"default {STEPS}; the first {WARMUP} are not timed")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of an operator")
    parser.add_argument("--json", type=Path, help="file for all times and losses")
    options = parser.parse_args()
    if options.repeats < 1 or (options.steps is not None and options.steps <= WARMUP):
        parser.error(f"give at least 1 repeat and more than {WARMUP} steps")
    return options


def main(options: argparse.Namespace) -> int:
    workloads = [*STEPS] if options.workload == "all" else [options.workload]
    contenders = [*CONTENDERS]
    if find_spec("lightning") is None:
        print("Lightning is not installed and left out; install it with: pip install -e '.[bench]'")
        contenders = [name for name in contenders if not name.startswith("Lightning")]
    if "resnet20" in workloads and not CIFAR10.is_dir():
        print(f"no {CIFAR10}; set LAB_DATA to the folder that has cifar10/. resnet20 trains on made-up images instead")
    print(f"{'workload':9} {'contender':20}{'wall us/step':>33}  ratio{'CPU us/step':>33}  ratio")
    report, problems = {}, []
    for workload in workloads:
        outcomes = measure_all(workload, contenders, options.repeats, options.steps or STEPS[workload], options.threads)
        print_times(workload, outcomes)
        if workload == "mlp" and "Lightning" in outcomes:
            for beside in ("by hand", "by hand, tuned"):
                print_overhead(outcomes, beside)
        problems += [f"{workload}: {problem}" for problem in find_differences(outcomes)]
        report[workload] = {name: [(o.wall, o.cpu, o.loss) for o in repeats] for name, repeats in outcomes.items()}
    if options.json:
        options.json.write_text(
            json.dumps({"torch": torch.__version__, "threads": options.threads, **report}, indent=1)
        )
    print("\n".join(problems) or "all end in the same losses and weights")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(parse_arguments()))
