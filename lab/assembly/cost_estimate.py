"""Estimates the cost of a training step by tracing it on fake tensors, without computing it."""

import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorConverter,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lab.hardware import Hardware
from lab.nest import map_tensors
from lab.run import Batch, Task
from lab.seeding import temporary_seed
from lab.train.micro_batches import LocalBatch, choose_backward
from lab.train.scoring import set_training_mode

ModelAndOptimizer = tuple[nn.Module, Optimizer]
Result = TypeVar("Result")


@dataclass(frozen=True)
class CostEstimate:
    """parameters, trainable: number of parameters of the model, and of those that the optimizer trains.

    flops: floating-point operations of one step (forward, backward and update) in matrix products, convolutions and
    attention. A multiplication and an addition are two; elementwise operations do not count.
    peak: peak memory in bytes of parameters, buffers, gradients, optimizer state, one batch, activations and
    temporaries, in a step after the first. Each storage counts as long as it lives, on any device. Not included:
    memory that an operator allocates and frees inside (workspaces), the allocator's rounding and cache, the device's
    context, and parts of a step that the trace leaves out (clipping, unscaling, a regularizer's copy of the weights).
    None where it depends on values of tensors, see `estimate_cost`.
    saved: bytes of a checkpoint with the states of the model and the optimizer; without the optimizer's where peak is
    None.
    """

    parameters: int
    trainable: int
    flops: int | None
    peak: int | None
    saved: int


def estimate_cost(make: Callable[[], ModelAndOptimizer], task: Task, batch: Batch, hardware: Hardware) -> CostEstimate:
    """The cost of a training step of a model and its optimizer on batches like `batch`, from a trace of two steps.

    make: function that builds both anew. It is called on fake tensors, which have shapes and devices but no memory and
    no values. If it reads values (`nn.init.trunc_normal_` does), it is called again on real tensors, whose memory is
    freed before the trace.
    batch: real tensors on any device, of which only the shapes are used.  hardware: settings of autocast and
    micro-batches; the model stays on the device on which `make` puts it.

    flops and peak are None where the loss or the optimizer reads values (`.item()`, shapes that depend on data), or
    uses an operator without a shape function or with unknown memory (fused recurrent kernels, sparse gradients). All
    other errors are the model's own and propagate. The generators of torch on the CPU, NumPy and Python stay as they
    were.
    """
    fake, allocations = BuildableFakeMode(), Allocations()
    hardware = replace(hardware)  # with a scaler of its own, as that keeps a tensor without values
    with temporary_seed(0), torch.enable_grad():
        built = try_traced(make, fake, allocations)
        if has_values := built is None:
            allocations = Allocations()
            with allocations:
                built = make()
        model, optimizer = built
        device = next(model.parameters()).device

        def trace() -> tuple[int, int]:
            if has_values:
                make_fake(model)
            fake_batch = map_tensors(batch, lambda tensor: allocations.count(fake.from_tensor(tensor).to(device)))
            return measure_cost(built, partial(trace_step, built, task, fake_batch, hardware), allocations)

        flops, peak = try_traced(trace, fake, allocations) or (None, None)
    trained = {p for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    parameters = sum(p.numel() for p in model.parameters())
    return CostEstimate(parameters, sum(p.numel() for p in trained), flops, peak, checkpoint_bytes(model, optimizer))


def checkpoint_bytes(model: nn.Module, optimizer: Optimizer) -> int:
    states = [model.state_dict(), *optimizer.state.values()]
    return sum(t.numel() * t.element_size() for state in states for t in state.values() if isinstance(t, Tensor))


def trace_step(built: ModelAndOptimizer, task: Task, batch: Batch, hardware: Hardware) -> Tensor:
    """One step of the same cost as in lab.train.loop, with the same backward pass. Returns the loss, as the loop keeps
    it alive that long too."""
    model, optimizer = built
    loss = choose_backward(hardware)(task, hardware, model, LocalBatch(batch))
    optimizer.step()
    for parameter in model.parameters():
        parameter.grad = None
    return loss


def measure_cost(built: ModelAndOptimizer, step: Callable[[], Any], allocations: "Allocations") -> tuple[int, int]:
    """FLOPs and peak of a step: FLOPs of the first of two, peak of the second, when the optimizer has its state.

    allocations: mode that counts bytes. It is active now, and was when the model, the optimizer and the batch were
    built.
    """
    model, optimizer = built
    set_training_mode(model)
    choose_kernels(optimizer)
    with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter:
        step()
    allocations.peak = allocations.now
    step()
    return counter.get_total_flops(), allocations.peak


class Allocations(TorchDispatchMode):
    """Counts the bytes of the living storages that were made inside the mode: `now`, and the maximum so far, `peak`.
    Views share a storage, which counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.living: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        map_tensors(outputs, self.count)
        return outputs

    def count(self, tensor: Tensor) -> Tensor:
        """Add the tensor's storage until it is freed. Returns the tensor."""
        for part in (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,):
            storage = part.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self.living:
                self.living.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                # torch keeps one Python object for each living storage
                weakref.finalize(storage, self.free, key, size).atexit = False
        return tensor

    def free(self, key: int, size: int) -> None:
        self.living.remove(key)
        self.now -= size


class BuildableFakeMode(FakeTensorMode):
    """A fake mode in which models can be built unchanged: its tensors can be copied deeply and moved by `Module.to`."""

    def __init__(self) -> None:
        # no fallback kernels: they compute on zeros, so that shapes which depend on values would be guesses. Real
        # tensors of a loss (class weights) are treated as fake ones
        super().__init__(allow_fallback_kernels=False, allow_non_fake_inputs=True)
        self.fake_tensor_converter = NoMemoConverter()

    def __deepcopy__(self, memo: Any) -> "BuildableFakeMode":
        return self  # copying a tensor copies its mode, and tensors of two modes do not mix

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = getattr(func, "overloadpacket", None)
        if operator in opaque_operators():
            raise UnsupportedOperatorException(func)
        self.cache_enabled = operator is not torch.ops.aten.set_  # the cache would keep the storage alive
        outputs = super().__torch_dispatch__(func, types, args, kwargs)
        if isinstance(outputs, Tensor) and outputs.layout is not torch.strided:
            raise UnsupportedFakeTensorException(f"how much a tensor of {outputs.layout} holds depends on its values")
        return outputs


class NoMemoConverter(FakeTensorConverter):
    """Keeps no weak references to the operators' outputs, with which `Module.to` could not swap fake tensors."""

    def set_tensor_memo(self, t: Tensor, v: Any) -> None:
        pass


def try_traced(function: Callable[[], Result], fake: BuildableFakeMode, allocations: Allocations) -> Result | None:
    """The result of `function` on fake tensors; None where it needs their values."""
    try:
        with warnings.catch_warnings(), fake, allocations:
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # torch's own deepcopy does
            return function()
    except Exception as error:
        if not needs_values(error):
            raise
        return None


def needs_values(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, comes from fake tensors having no values."""
    kinds = (
        DataDependentOutputException,
        DynamicOutputShapeException,
        UnsupportedFakeTensorException,
        UnsupportedOperatorException,
    )
    while error is not None:
        # .numpy() has no exception of its own
        if isinstance(error, kinds) or "numpy() is not supported for tensor subclasses" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def make_fake(model: nn.Module) -> None:
    """Replace the data of a real model's parameters and buffers by fake tensors; they stay the same Python objects."""

    def empty_copy(tensor: Tensor) -> Tensor:
        if tensor.layout is not torch.strided:
            raise UnsupportedFakeTensorException(f"a tensor of {tensor.layout}")
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)

    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # else the optimizer would keep the real tensors
    try:
        model._apply(empty_copy)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)


def choose_kernels(optimizer: Optimizer) -> None:
    """Set `foreach` where torch's optimizers would choose it on CUDA; they would not for fake tensors' type."""
    for group in optimizer.param_groups:
        if group.get("foreach", False) is None and group.get("fused") is None:
            group["foreach"] = all(p.device.type == "cuda" for p in group["params"]) or None


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """Formulas, from shapes, for the FLOPs of operators that torch's counter leaves out."""
    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }


@cache
def opaque_operators() -> frozenset[Any]:
    """Operators whose FLOPs torch's counter does not see, and whose workspaces fake tensors do not show."""
    aten = torch.ops.aten
    return frozenset({aten.mkldnn_rnn_layer, aten._cudnn_rnn, aten.miopen_rnn, aten._lstm_mps})
