"""Hardware options of a run: device, precision, memory format, compilation, threads, determinism, processes."""

import ctypes
import os
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lab.activation_checkpointing import checkpoint_blocks
from lab.distributed import collectives, replicas
from lab.nest import map_tensors
from lab.text import error_message

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PARALLEL_MODES = ("none", "ddp", "fsdp")


@dataclass(frozen=True)
class Hardware:
    """The hardware options of a run.

    device: device name, such as `cuda:1`; `auto` for the first of cuda, mps and cpu that this machine has.
    precision: `float32`, or mixed precision by autocast (Micikevicius et al. 2018, arXiv:1710.03740): `bf16`, or `fp16`
        with a loss scaler.
    compile: whether the model is compiled by torch.compile.
    channels_last: whether the model and images are in channels-last memory format.
    threads: CPU threads of torch's operators; None keeps torch's choice.
    deterministic: whether only deterministic algorithms are used.
    micro_batch: maximum number of examples in one forward and backward pass, and in one forward pass of scoring; None
        for the whole batch. Gradients are accumulated over the batch (`lab.train.micro_batches`), but BatchNorm uses
        the statistics of each micro-batch.
    activation_checkpointing: whether the backward pass recomputes the model's blocks (`lab.activation_checkpointing`):
        the same results in less memory, for a third more time.
    parallel: `none`; `ddp`, a replica of the model in each process, with averaged gradients
        (`lab.distributed.replicas`); or `fsdp`, a shard of the model in each process (`lab.distributed.shards`). Each
        process trains on its part of every batch.
    processes: number of processes, each with its own GPU where the device is cuda; None for one per GPU, or one on a
        CPU.

    Raises ValueError for a device that this machine lacks, an unknown precision, a number that is not positive, and
    options that exclude each other.
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
                "compile=true decides by itself which activations to recompute; "
                "give activation_checkpointing=false with it"
            )
        object.__setattr__(self, "processes", self.resolve_processes(device))
        if device == "cuda" and collectives.get_world_size() > 1:
            device = f"cuda:{collectives.get_rank()}"
        object.__setattr__(self, "device", device)
        scaler = torch.amp.GradScaler(device.split(":")[0], enabled=self.precision == "fp16")
        object.__setattr__(self, "scaler", scaler)

    def resolve_processes(self, device: str) -> int:
        """The number of processes to train with. Raises ValueError if this machine or other options exclude it."""
        if self.parallel not in PARALLEL_MODES:
            raise ValueError(f"parallel {self.parallel!r} is not one of {', '.join(PARALLEL_MODES)}")
        if self.parallel == "none":
            if self.processes in (None, 1):
                return 1
            raise ValueError(f"processes={self.processes} needs hardware=ddp or hardware=fsdp")
        gpus = torch.cuda.device_count() if device.startswith("cuda") else 0
        processes = self.processes if self.processes is not None else max(1, gpus)
        if processes < 1:
            raise ValueError(f"processes={processes} is not a positive number; null takes one for each GPU")
        if processes > 1 and device == "mps":
            raise ValueError("mps is a single device; give hardware.processes=1, or hardware.device=cpu")
        if processes > 1 and ":" in device and collectives.get_world_size() == 1:
            raise ValueError(f"device={device} is a single device; give hardware.device=cuda, or hardware.processes=1")
        if processes > 1 and device.startswith("cuda") and processes > gpus:
            raise ValueError(f"processes={processes} needs {processes} GPUs, this machine has {gpus}")
        if processes > 1 and self.parallel == "fsdp":
            self.check_shardable()
        return processes

    def check_shardable(self) -> None:
        """Raises ValueError for options that fsdp does not support."""
        if self.compile:
            raise ValueError("fsdp does not support compile=true here; give hardware=ddp with it")
        if self.channels_last:
            raise ValueError("fsdp does not support channels_last=true; give channels_last=false, or hardware=ddp")
        if self.precision == "fp16":
            raise ValueError(
                "fsdp does not support the loss scaler of precision=fp16; give precision=bf16, or hardware=ddp"
            )

    def setup(self) -> None:
        """Set the process-wide switches: threads, determinism and CUDA's current device."""
        if self.device.startswith("cuda:"):
            torch.cuda.set_device(self.device)
        if self.device == "cpu":
            keep_freed_memory()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.deterministic:
            # cuBLAS reads this when it creates its first handle; without it torch refuses deterministic algorithms
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.cudnn.benchmark = not self.deterministic

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass in this precision."""
        if self.precision == "float32":
            return NO_AUTOCAST
        return torch.autocast(self.device.split(":")[0], PRECISIONS[self.precision])

    def place(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device in place. Depending on the options, also synchronise its BatchNorm across GPUs,
        change its memory format, checkpoint its blocks and compile it."""
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
            model.compile()  # unlike torch.compile(model), it keeps the keys of the state dict
        return model

    def move(self, batch: Any) -> Any:
        """A copy of a nest of tuples, lists and dicts, with its tensors on the device."""
        return map_tensors(batch, lambda tensor: tensor.to(self.device, non_blocking=True))

    def arrange(self, batch: Any) -> Any:
        """A copy of the nest, with its images (4-D tensors) in channels-last memory format."""
        return map_tensors(batch, lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x)


NO_AUTOCAST = nullcontext()  # entering it costs 0.2 us, a disabled autocast 5 us


def keep_freed_memory() -> None:
    """Let glibc keep what large tensors free, up to 2 GB. It would return it to the system and fault it in again in the
    next step, which takes up to a tenth of the time of a small model. Other C libraries are left as they are."""
    trim_threshold, mmap_threshold = -1, -3  # numbers of M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in malloc.h
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(ctypes.c_int(trim_threshold), ctypes.c_int(2**31 - 1))
        mallopt(ctypes.c_int(mmap_threshold), ctypes.c_int(2**25))


def available_devices() -> list[str]:
    """The device types of this machine, fastest first."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, is_available in available.items() if is_available]


def default_device() -> str:
    return available_devices()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or an exception in its chain of causes, is an out-of-memory error of any device."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(cause, RuntimeError) and any(text in error_message(cause) for text in OUT_OF_MEMORY_TEXTS):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False


# texts of plain RuntimeErrors: the CPU allocator on POSIX and Windows, MPS, and CUDA outside of its allocator
OUT_OF_MEMORY_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",
)
