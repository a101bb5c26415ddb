"""What a training step will cost, found without computing it."""

import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
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

from lab.nest import map_tensors
from lab.run import Batch
from lab.seeding import temporary_seed
from lab.train.micro_batches import split_batch
from lab.train.scoring import set_training_mode

ModelAndOptimizer = tuple[nn.Module, Optimizer]
Result = TypeVar("Result")


@dataclass(frozen=True)
class CostEstimate:
    """parameters, trainable: numbers in the model, and those of them that the optimizer trains.

    flops: floating-point operations of one step (forward, backward and update), a multiplication and an addition being
    two, in products of matrices, convolutions and attention; what is done element by element is not in it.
    peak: bytes, the most that parameters, buffers, gradients, optimizer state, one batch, activations and temporaries
    take together in a step that is not the first. Each storage counts as long as it lives, whatever device it is on.
    Not in it: what an operator allocates and frees inside (workspaces), the allocator's rounding and its cache, the
    device's context, and what a step here leaves out: clipping, loss scaling, a regularizer's copy of the weights.
    None where it cannot be known without values: see `estimate`.
    saved: bytes of what a checkpoint holds, the model's state and the optimizer's; without the latter where peak is
    None.
    """

    parameters: int
    trainable: int
    flops: int | None
    peak: int | None
    saved: int


def estimate_cost(
    make: Callable[[], ModelAndOptimizer],
    loss: Callable[[nn.Module, Batch], Tensor],
    batch: Batch,
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    micro_batch: int | None = None,
) -> CostEstimate:
    """What a step of `loss` on batches like `batch` costs a model and its optimizer, by tracing two of them.

    make: builds both anew, of tensors that have shapes and devices but neither memory nor values. Where it reads values
    (`nn.init.trunc_normal_` does), it is called once more, for real, and what it built gives its memory back.
    batch: real tensors, on any device, used for their shapes alone.  micro_batch: as in lab.train.micro_batches.

    flops and peak are None where loss or optimizer read values (`.item()`, shapes that depend on data), use an operator
    that has no function of shapes, or one that does not say what it takes: fused recurrent kernels, sparse gradients.
    All other errors are the model's own and propagate. The generators of torch on the CPU, NumPy and Python stay as
    they were.
    """
    fake, allocations = BuildableFakeMode(), Allocations()
    with temporary_seed(0), torch.enable_grad():
        made = try_traced(make, fake, allocations)
        if real := made is None:
            allocations = Allocations()
            with allocations:
                made = make()
        model, optimizer = made
        device = next(model.parameters()).device

        def found() -> tuple[int, int]:
            if real:
                make_fake(model)
            fed = map_tensors(batch, lambda tensor: allocations.count(fake.from_tensor(tensor).to(device)))
            return measure_cost(made, partial(trace_step, made, loss, fed, autocast, micro_batch), allocations)

        flops, peak = try_traced(found, fake, allocations) or (None, None)
    trained = {p for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    parameters = sum(p.numel() for p in model.parameters())
    return CostEstimate(parameters, sum(p.numel() for p in trained), flops, peak, checkpoint_bytes(model, optimizer))


def checkpoint_bytes(model: nn.Module, optimizer: Optimizer) -> int:
    states = [model.state_dict(), *optimizer.state.values()]
    return sum(t.numel() * t.element_size() for state in states for t in state.values() if isinstance(t, Tensor))


def trace_step(
    made: ModelAndOptimizer,
    loss: Callable[[nn.Module, Batch], Tensor],
    batch: Batch,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    micro_batch: int | None = None,
) -> None:
    """One step as lab.train.loop takes it, of the same cost."""
    model, optimizer = made
    for part, _ in split_batch(batch, micro_batch) if micro_batch else [(batch, 1.0)]:
        with autocast():
            value = loss(model, part)
        value.backward()
    optimizer.step()
    for parameter in model.parameters():
        parameter.grad = None


def measure_cost(made: ModelAndOptimizer, step: Callable[[], None], allocations: "Allocations") -> tuple[int, int]:
    """FLOPs and peak of a step: the first of two is counted, the second, with the optimizer's state there, is weighed.

    allocations: entered now, and while what `made` and the batch hold was made.
    """
    set_training_mode(made[0])
    choose_kernels(made[1])
    with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter:
        step()
    allocations.peak = allocations.now
    step()
    return counter.get_total_flops(), allocations.peak


class Allocations(TorchDispatchMode):
    """Bytes of the storages made inside that live, `now` and at most. Views share one, which counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.living: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        map_tensors(made, self.count)
        return made

    def count(self, tensor: Tensor) -> Tensor:
        for part in (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,):
            storage = part.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self.living:
                self.living.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                # torch keeps one Python object for a storage, as long as that lives
                weakref.finalize(storage, self.free, key, size).atexit = False
        return tensor

    def free(self, key: int, size: int) -> None:
        self.living.remove(key)
        self.now -= size


class BuildableFakeMode(FakeTensorMode):
    """Fake tensors that models can be built of as they are: copied deeply, and moved by `Module.to`."""

    def __init__(self) -> None:
        # a fallback would compute, and on zeros: shapes that depend on values would be guesses; the real tensors that
        # a loss holds (weights of classes) count as fake ones
        super().__init__(allow_fallback_kernels=False, allow_non_fake_inputs=True)
        self.fake_tensor_converter = NoMemoConverter()

    def __deepcopy__(self, memo: Any) -> "BuildableFakeMode":
        return self  # a copied tensor copies its mode, and tensors of two modes do not mix

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = getattr(func, "overloadpacket", None)
        if operator in opaque_operators():
            raise UnsupportedOperatorException(func)
        self.cache_enabled = operator is not torch.ops.aten.set_  # the cache would keep the storage it is given alive
        made = super().__torch_dispatch__(func, types, args, kwargs)
        if isinstance(made, Tensor) and made.layout is not torch.strided:
            raise UnsupportedFakeTensorException(f"how much a tensor of {made.layout} holds depends on its values")
        return made


class NoMemoConverter(FakeTensorConverter):
    """Keeps no weak references to what operators made: `Module.to` swaps fake tensors, which those would forbid."""

    def set_tensor_memo(self, t: Tensor, v: Any) -> None:
        pass


def try_traced(what: Callable[[], Result], fake: BuildableFakeMode, allocations: Allocations) -> Result | None:
    """What it gives when its tensors have no values; None where it needs some."""
    try:
        with warnings.catch_warnings(), fake, allocations:
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # torch's own deepcopy does
            return what()
    except Exception as error:
        if not needs_values(error):
            raise
        return None


def needs_values(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is that fake tensors have no values."""
    kinds = (
        DataDependentOutputException,
        DynamicOutputShapeException,
        UnsupportedFakeTensorException,
        UnsupportedOperatorException,
    )
    while error is not None:
        # of .numpy(), which has no exception of its own
        if isinstance(error, kinds) or "numpy() is not supported for tensor subclasses" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def make_fake(model: nn.Module) -> None:
    """Put fake tensors in the place of a real model's parameters and buffers, which stay the same objects."""

    def shell(tensor: Tensor) -> Tensor:
        if tensor.layout is not torch.strided:
            raise UnsupportedFakeTensorException(f"a tensor of {tensor.layout}")
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)

    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # else the optimizer would keep the real ones
    try:
        model._apply(shell)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)


def choose_kernels(optimizer: Optimizer) -> None:
    """Set `foreach` where torch's optimizers would choose it on CUDA; they would not for fake tensors' type."""
    for group in optimizer.param_groups:
        if group.get("foreach", False) is None and group.get("fused") is None:
            group["foreach"] = all(p.device.type == "cuda" for p in group["params"]) or None


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """FLOPs of the operators that torch's counter leaves out, from shapes."""
    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }


@cache
def opaque_operators() -> frozenset[Any]:
    """Operators whose products the counter does not see, and whose workspaces have no size in torch's fake tensors."""
    aten = torch.ops.aten
    return frozenset({aten.mkldnn_rnn_layer, aten._cudnn_rnn, aten.miopen_rnn, aten._lstm_mps})
