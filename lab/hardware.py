"""Where and how the arithmetic is done: device, precision, memory format, compilation, threads, determinism."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lab.activation_checkpointing import checkpoint_blocks
from lab.distributed import collectives, replicas
from lab.nest import map_tensors

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PARALLEL_MODES = ("none", "ddp", "fsdp")


@dataclass(frozen=True)
class Hardware:
    """device: `auto` takes the first of cuda, mps, cpu that is there.  precision: `float32`, `bf16` or `fp16`; the
    last two are mixed precision by autocast (Micikevicius et al. 2018, arXiv:1710.03740), fp16 with a loss scaler.
    threads: of the CPU's operators; None keeps torch's choice.  micro_batch: examples in one forward and backward pass,
    at most; None: the whole batch. Gradients are accumulated to the whole batch's (`train.micro.in_parts`), but batch
    normalisation sees the statistics of a micro-batch.  activation_checkpointing: compute the model's blocks again in
    the backward pass (`lab.activation_checkpointing`): the same results in less memory, for a third more time.
    parallel: `none`; `ddp`, a replica of the model in each of `processes` processes, which averages gradients; or
    `fsdp`, a shard of the model in each (`lab.distributed.shards`). Each trains on its part of every batch. processes: None for
    as many as there are GPUs, one on a CPU; then one of them for each, the first `processes` of the machine's.

    Raises ValueError for a device that this machine lacks, a precision that is not one of the three, a number that is
    not positive, or what does not go together.
    """

    device: str = "auto"
    precision: str = "float32"
    compile: bool = False
    channels_last: bool = False
    threads: int | None = None
    deterministic: bool = False
    micro_batch: int | None = None
    activation_checkpointing: bool = False
    parallel: str = "none"
    processes: int | None = None
    scaler: torch.amp.GradScaler = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        device = default_device() if self.device == "auto" else self.device
        if device.split(":")[0] not in available_devices():
            raise ValueError(f"device {device!r} is not on this machine; it has: {', '.join(available_devices())}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} is not a positive number; null keeps torch's choice")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch={self.micro_batch} is not a positive number; null takes the whole batch")
        if self.compile and self.activation_checkpointing:
            raise ValueError(
                "compile=true chooses by itself what to compute again in the backward pass; "
                "give activation_checkpointing=false with it"
            )
        object.__setattr__(self, "processes", self.counted(device))
        if device == "cuda" and collectives.get_world_size() > 1:
            device = f"cuda:{collectives.get_rank()}"
        object.__setattr__(self, "device", device)
        scaler = torch.amp.GradScaler(device.split(":")[0], enabled=self.precision == "fp16")
        object.__setattr__(self, "scaler", scaler)

    def counted(self, device: str) -> int:
        """How many processes train. Raises ValueError where they cannot."""
        if self.parallel not in PARALLEL_MODES:
            raise ValueError(f"parallel {self.parallel!r} is not one of {', '.join(PARALLEL_MODES)}")
        if self.parallel == "none":
            if self.processes in (None, 1):
                return 1
            raise ValueError(f"processes={self.processes} of one model need hardware=ddp or hardware=fsdp")
        gpus = torch.cuda.device_count() if device.startswith("cuda") else 0
        processes = self.processes if self.processes is not None else max(1, gpus)
        if processes < 1:
            raise ValueError(f"processes={processes} is not a positive number; null takes one for each GPU")
        if processes > 1 and device == "mps":
            raise ValueError("mps is one device; give hardware.processes=1, or hardware.device=cpu")
        if processes > 1 and ":" in device and collectives.get_world_size() == 1:
            raise ValueError(f"device={device} is one device; give hardware.device=cuda, or hardware.processes=1")
        if processes > 1 and device.startswith("cuda") and processes > gpus:
            raise ValueError(f"processes={processes} want a GPU each, of which there are {gpus}")
        if processes > 1 and self.parallel == "fsdp":
            self.shardable()
        return processes

    def shardable(self) -> None:
        if self.compile:
            raise ValueError("compile=true and shards do not go together here; give hardware=ddp with it")
        if self.channels_last:
            raise ValueError("a shard has no memory format; give channels_last=false, or hardware=ddp")
        if self.precision == "fp16":
            raise ValueError("fp16 scales its loss by what whole gradients say; give precision=bf16, or hardware=ddp")

    def setup(self) -> None:
        """Set the process-wide switches: threads, determinism and CUDA's current device."""
        if self.device.startswith("cuda:"):
            torch.cuda.set_device(self.device)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.deterministic:
            # cuBLAS reads this when its first handle is made and refuses to be deterministic without it
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.cudnn.benchmark = not self.deterministic

    def autocast(self) -> AbstractContextManager[Any]:
        enabled = self.precision != "float32"
        if not enabled:
            return collectives.NOTHING  # an autocast that is off costs 5 us to enter
        return torch.autocast(self.device.split(":")[0], PRECISIONS[self.precision])

    def place(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device and, where asked, change its memory format, checkpoint its blocks and compile it,
        all in place."""
        model.to(self.device)
        if self.device.startswith("cuda") and collectives.get_world_size() > 1:
            replicas.convert_sync_batchnorm(model)
        if self.channels_last:
            for parameter in model.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        if self.activation_checkpointing:
            checkpoint_blocks(model)
        if self.compile:
            model.compile()  # in place: the state's keys stay as they are
        return model

    def move(self, batch: Any) -> Any:
        """The same nest of tuples, lists and dicts, with its tensors on the device."""
        return map_tensors(batch, lambda tensor: tensor.to(self.device, non_blocking=True))

    def arrange(self, batch: Any) -> Any:
        """The same nest, with its images (4-D tensors) in channels-last memory format."""
        return map_tensors(batch, lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x)


def available_devices() -> list[str]:
    """The kinds of device on this machine, best first."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, present in there.items() if present]


def default_device() -> str:
    return available_devices()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or one that its traceback shows as its cause, is memory that did not suffice, of any device."""
    seen: set[int] = set()
    shown: BaseException | None = error
    while shown is not None and id(shown) not in seen:
        if isinstance(shown, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(shown, RuntimeError) and any(said in str(shown) for said in OUT_OF_MEMORY_TEXTS):
            return True
        seen.add(id(shown))
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
    return False


# what comes as a plain RuntimeError: the CPU's allocator on POSIX and on Windows, MPS, and CUDA outside its allocator
OUT_OF_MEMORY_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",
)
