"""Training tokens a second of model=gpt in lab's loop, in a loop written by hand and in Hugging Face's Trainer; and the
padding that batches of similar lengths save.

    python benchmarks/language_model.py                     # about 5 minutes
    pip install -e '.[huggingface]' accelerate              # adds Hugging Face's Trainer to the contenders

All train the same model from the same weights on the same blocks of Multi30k's English from ${LAB_DATA:-data}/multi30k
(made-up sentences without it), AdamW, one thread, and must end in the same loss: lab in the same bits as the loop by
hand. Each has its own process; they take turns, in rotated order, and the clock runs from step WARMUP to the last. A
ratio is the median over the repeats of a contender's time divided by that of lab in the same repeat, so above 1 lab is
faster.

The loop by hand has nothing but forward pass, loss, backward pass, step and a logged loss every 20 steps. Trainer logs
as often, and neither scores nor saves.

Expected: by hand at least 0.98, Hugging Face's Trainer at least 1.05.
"""

import argparse
import gzip
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.data.packing import PackedText
from lab.data.parallel_text import parallel_text
from lab.data.sequences import GroupedByLength
from lab.data.text_corpus import text_corpus
from lab.data.text_csv import text_csv
from lab.hardware import Hardware
from lab.metrics.tokens import IGNORED
from lab.models.gpt import GPT
from lab.optim.schedules import constant
from lab.record.console import Console
from lab.record.record import Record
from lab.run import Cadence, Run, Step
from lab.tasks.language_modeling import LanguageModeling
from lab.train.loop import execute

DATA = Path(os.environ.get("LAB_DATA", "data"))
LENGTH, BATCH, WARMUP, LOG_EVERY = 128, 16, 5, 20


class Clock:
    """Reads wall and CPU time after step WARMUP and after the last step."""

    def __init__(self, steps: int):
        self.steps, self.readings = steps, list[tuple[float, float]]()

    def after(self, n: int) -> None:
        if n in (WARMUP, self.steps):
            self.readings.append((time.perf_counter(), time.process_time()))

    def seconds(self) -> tuple[float, float]:
        (wall, cpu), (wall_end, cpu_end) = self.readings
        return wall_end - wall, cpu_end - cpu


def make_data(folder: Path) -> PackedText:
    file = DATA / "multi30k" / "train.en.gz"
    if not file.is_file():
        file = folder / "made_up.txt.gz"
        with gzip.open(file, "wt", encoding="utf-8") as out:
            out.writelines(f"the fox number {n % 97} runs over hill {n % 89}\n" for n in range(20_000))
    return text_corpus(
        BATCH, 0, train_file=str(file), documents="line", train_examples=8000, vocab_size=4000, max_length=LENGTH
    )


def train_by_hand(model: nn.Module, data: PackedText, clock: Clock) -> None:
    optimizer, loss = make_optimizer(model), torch.tensor(0.0)
    for n, batch in enumerate(data.batches(0), start=1):
        labels = batch.pop("labels")
        loss = F.cross_entropy(model(batch).flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if n % LOG_EVERY == 0:
            loss.item()
        clock.after(n)
        if n == clock.steps:
            return


class TimedRecord(Record):
    """A record that reads the clock after each step."""

    def __init__(self, directory: Path, console: Console, clock: Clock):
        super().__init__(directory, console)
        self.clock = clock

    def step(self, run: Run, step: Step) -> None:
        super().step(run, step)
        self.clock.after(step.n)


def train_with_lab(model: nn.Module, data: PackedText, clock: Clock) -> None:
    hardware = Hardware("cpu", threads=1)
    hardware.setup()
    optimizer = make_optimizer(model)
    cadence = Cadence(clock.steps, data.steps_per_epoch, clock.steps, clock.steps, LOG_EVERY)
    schedule, task = constant(optimizer), LanguageModeling(samples=0)
    run = Run(model, task, data, optimizer, schedule, cadence, hardware=hardware, final="last")
    with TemporaryDirectory() as directory, Console(clock.steps, quiet=True) as console:
        execute(run, TimedRecord(Path(directory), console, clock))


class WithLoss(nn.Module):
    """The model as Trainer calls it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, position_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model({"input_ids": input_ids, "position_ids": position_ids})
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED), "logits": logits}


def train_with_huggingface(model: nn.Module, data: PackedText, clock: Clock) -> None:
    import transformers

    class Batches(torch.utils.data.IterableDataset):
        """Whole batches, so that Trainer's loader collates nothing."""

        def __iter__(self) -> Any:
            return iter(data.batches(0))

    class Timer(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            clock.after(state.global_step)

    with TemporaryDirectory() as directory:
        arguments = transformers.TrainingArguments(
            directory,
            max_steps=clock.steps,
            per_device_train_batch_size=1,
            logging_steps=LOG_EVERY,
            max_grad_norm=0.0,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            lr_scheduler_type="constant",
            seed=0,
            logging_strategy="steps",
        )
        wrapped = WithLoss(model)
        optimizer = make_optimizer(model)
        trainer = transformers.Trainer(
            wrapped,
            arguments,
            train_dataset=Batches(),
            data_collator=lambda rows: rows[0],
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
            callbacks=[Timer()],
        )
        trainer.train()


CONTENDERS = {"lab": train_with_lab, "by hand": train_by_hand, "Hugging Face's Trainer": train_with_huggingface}


@cache
def make_work() -> tuple[PackedText, nn.Module]:
    with TemporaryDirectory() as folder:
        data = make_data(Path(folder))
    torch.manual_seed(0)
    return data, GPT(data.tokenizer.get_vocab_size(), LENGTH, width=128, heads=4, layers=2)


def run_contender(name: str, steps: int) -> tuple[tuple[float, float], list[Tensor]]:
    """The seconds, wall and CPU, and the weights at the end."""
    torch.set_num_threads(1)
    data, initial = make_work()
    model, clock = deepcopy(initial), Clock(steps)
    CONTENDERS[name](model, data, clock)
    return clock.seconds(), [parameter.detach().clone() for parameter in model.parameters()]


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.001, fused=True)


def padding_share(data: GroupedByLength, mask: Callable[[Any], Tensor]) -> float:
    used = total = 0
    stream = data.batches()
    for _ in range(data.steps_per_epoch):
        is_used = mask(next(stream))
        used, total = used + int(is_used.sum()), total + is_used.numel()
    return 1 - used / total


def measure_padding() -> dict[str, list[float]]:
    """The share of padding in an epoch, with and without groups of similar lengths."""
    shares: dict[str, list[float]] = {}
    for grouped in (True, False):
        if (DATA / "sst2").is_dir():
            file = str(DATA / "sst2" / "train.tsv")
            data = text_csv(
                64,
                0,
                train_file=file,
                text=0,
                label=1,
                header=False,
                num_classes=2,
                tokenizer="words",
                vocab_size=12000,
                group_by_length=grouped,
            )
            shares.setdefault("sst2", []).append(padding_share(data, lambda batch: batch[0]["attention_mask"]))
        if (DATA / "multi30k").is_dir():
            source, target = (str(DATA / "multi30k" / f"train.{name}.gz") for name in ("en", "de"))
            pairs = parallel_text(128, 0, source_file=source, target_file=target, group_by_length=grouped)
            shares.setdefault("multi30k, target", []).append(padding_share(pairs, lambda batch: batch[1] != IGNORED))
    return shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=45)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = ["lab", "by hand"]
    if find_spec("transformers") and find_spec("accelerate"):
        names.append("Hugging Face's Trainer")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    ends: dict[str, list[Tensor]] = {}
    pools = {name: ProcessPoolExecutor(1, get_context("spawn")) for name in names}
    for repeat in range(options.repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            seconds, ends[name] = pools[name].submit(run_contender, name, options.steps).result()
            times[name].append(seconds)
    for pool in pools.values():
        pool.shutdown()
    same = all(torch.equal(a, b) for a, b in zip(ends["lab"], ends["by hand"], strict=True))
    tokens = (options.steps - WARMUP) * BATCH * LENGTH
    result: dict[str, Any] = {"same bits as by hand": same}
    for name, seconds in times.items():
        wall, cpu = (
            statistics.median(own[part] / lab[part] for own, lab in zip(seconds, times["lab"], strict=True))
            for part in (0, 1)
        )
        rate = tokens / statistics.median(wall for wall, _ in seconds)
        close = all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ends["lab"], ends[name], strict=True))
        result[name] = {"ratio": round(wall, 3), "ratio of CPU times": round(cpu, 3), "tokens a second": round(rate)}
        print(
            f"{name:<24} {wall:.3f} of lab's time, {cpu:.3f} of its CPU time, {rate:,.0f} tokens a second"
            f"{'' if close else ', other weights at the end'}"
        )
    for name, (grouped, random) in measure_padding().items():
        result[f"padding, {name}"] = [round(grouped, 4), round(random, 4)]
        print(f"padding, {name}: {grouped:.1%} in batches of similar lengths, {random:.1%} in random ones")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if not same:
        print("lab and the loop by hand end in different bits", file=sys.stderr)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
