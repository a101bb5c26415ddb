"""What a loss is a mean over: parts of a batch count by its terms, however the batch is cut."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from lab.hardware import Hardware
from lab.optim.schedules import constant
from lab.run import Run, cadence
from lab.train.loop import train
from lab.train.micro_batches import LocalBatch, backward_in_micro_batches, backward_whole, local_shard, split_batch

CPU = Hardware("cpu")
IGNORED = -100


class NextToken:
    """Batches are tokens (B, T) and the next ones, of which those that are padding count for nothing."""

    def loss(self, model, batch):
        tokens, following = batch
        return F.cross_entropy(model(tokens).flatten(0, 1), following.flatten(), ignore_index=IGNORED)

    def score(self, model, batches):
        return {}

    def size(self, batch) -> Any:
        return int((batch[1] != IGNORED).sum())


class OnDevice(NextToken):
    def size(self, batch) -> Tensor:
        return (batch[1] != IGNORED).sum()


class Masked(NextToken):
    """The same mean by a mask, whose gradient is NaN where there is no term."""

    def loss(self, model, batch):
        tokens, following = batch
        mask = following != IGNORED
        losses = F.cross_entropy(model(tokens).flatten(0, 1), following.clamp(min=0).flatten(), reduction="none")
        return (losses * mask.flatten()).sum() / mask.sum()


class Boxes:
    """Batches are lists of dicts, as those of detectors are: images of any shape, each with any number of boxes."""

    def loss(self, model, batch):
        distances = [(model(entry["boxes"]) - entry["image"].mean()).square().sum(1) for entry in batch]
        return torch.cat(distances).mean()

    def score(self, model, batches):
        return {}

    def size(self, batch) -> int:
        return sum(len(entry["boxes"]) for entry in batch)

    def num_examples(self, batch) -> int:
        return len(batch)

    def slice_examples(self, batch, start, stop):
        return batch[start:stop]


def language_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7)).double()


def token_batch(lengths: list[int]) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    tokens, following = (torch.randint(7, (len(lengths), 9), generator=draw) for _ in range(2))
    for row, length in zip(following, lengths, strict=True):
        row[length:] = IGNORED
    return tokens, following


def box_batch() -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.rand(3, 4 + n, 5, generator=draw, dtype=torch.float64),
            "boxes": torch.rand(n % 4, 4, generator=draw, dtype=torch.float64),
        }
        for n in range(7)
    ]


CASES = {
    "tokens": (NextToken(), language_model, token_batch([9, 1, 4, 2, 7, 3, 5, 1])),
    "tokens counted on the device": (OnDevice(), language_model, token_batch([9, 1, 4, 2, 7, 3, 5, 1])),
    "parts without any token": (NextToken(), language_model, token_batch([0, 0, 4, 0, 0, 0, 5, 1])),
    "parts without any token, on the device": (OnDevice(), language_model, token_batch([0, 0, 4, 0, 0, 0, 5, 1])),
    "parts without any token, masked": (Masked(), language_model, token_batch([0, 0, 4, 0, 0, 0, 0, 0])),
    "lists of dicts": (Boxes(), lambda: nn.Linear(4, 2).double(), box_batch()),
}


def gradients(task: Any, model: nn.Module, batch: LocalBatch, num_examples: int | None) -> tuple[Tensor, Tensor]:
    """The loss and all the model's gradients, in one vector."""
    model.zero_grad()
    loss = backward_in_micro_batches(task, CPU, model, batch, num_examples)
    found = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )
    return loss, found.clone()


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_of_uneven_sizes_have_the_gradient_of_the_whole_batch(case):
    task, make_model, batch = CASES[case]
    model = make_model()
    whole = backward_whole(task, CPU, model, LocalBatch(batch)).detach()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert expected.isfinite().all()
    for num_examples in (1, 2, 3, None):
        loss, found = gradients(task, model, LocalBatch(batch), num_examples)
        assert loss.item() == pytest.approx(whole.item(), rel=1e-9)
        assert loss.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_examples", [None, 1])
def test_two_shards_added_up_by_their_weights_have_the_gradient_of_the_whole_batch(case, num_examples):
    task, make_model, batch = CASES[case]
    model = make_model()
    loss, expected = gradients(task, model, LocalBatch(batch), None)
    shards = [local_shard(task, batch, rank, 2) for rank in range(2)]
    assert [shard.num_examples for shard in shards] == [len(batch[0]) if isinstance(batch, tuple) else 7] * 2
    losses, found = zip(*(gradients(task, model, shard, num_examples) for shard in shards), strict=True)
    assert sum(losses).item() / 2 == pytest.approx(loss.item(), rel=1e-9)
    torch.testing.assert_close(sum(found) / 2, expected, rtol=1e-9, atol=1e-12)


def test_a_batch_is_cut_by_its_task():
    task, _, batch = CASES["lists of dicts"]
    parts = list(split_batch(task, batch, 3))
    assert [[entry["image"].shape[1] for entry in part] for part, _ in parts] == [[4, 5], [6, 7], [8, 9, 10]]
    assert [share for _, share in parts] == [1 / 9, 5 / 9, 3 / 9]
    assert local_shard(task, batch, 1, 2).data == batch[3:]
    with pytest.raises(ValueError, match=r"or add num_examples\(batch\) and slice_examples"):
        list(split_batch(NextToken(), batch, 3))


@pytest.mark.parametrize("task", [NextToken(), OnDevice(), Masked()])
def test_a_batch_without_any_term_leaves_a_loss_and_gradients_of_zero(task):
    loss, found = gradients(task, language_model(), LocalBatch(token_batch([0, 0, 0])), 1)
    assert loss.item() == 0
    assert not found.any()


class Parts:
    """A data set of token batches, of which each rank reads its own part alone."""

    steps_per_epoch = 3

    def __init__(self, reads_parts: bool):
        if not reads_parts:
            self.part = None

    def batches(self, after):
        draw = torch.Generator().manual_seed(3)
        lengths = [torch.randint(10, (5,), generator=draw).tolist() for _ in range(4)]
        lengths[1] = [0, 0, 3, 4, 5]  # none in the first rank's part
        yield from map(token_batch, lengths[after:])

    def part(self, after, rank, world):
        for tokens, following in self.batches(after):
            where = slice(2) if rank == 0 else slice(2, 5)
            yield (tokens[where], following[where]), len(tokens[where]) * world / 5

    def val(self):
        return []

    test = val


def trained(task: Any, reads_parts: bool = False, micro_batch: int | None = None) -> dict[str, Tensor]:
    model = language_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    hardware = Hardware("cpu", micro_batch=micro_batch)
    data: Any = Parts(reads_parts)
    run = Run(model, task, data, optimizer, constant(optimizer), cadence(4, 3, log_every=1), hardware=hardware)
    losses = torch.stack([step.loss for step in train(run)])
    return {**model.state_dict(), "losses": losses}


def train_in_rank(rank: int, folder: str) -> None:
    import torch.distributed as dist

    from lab.distributed.collectives import leave_process_group

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    found = [
        trained(task, reads_parts, micro_batch)
        for task in (NextToken(), OnDevice(), Masked())
        for reads_parts in (False, True)
        for micro_batch in (None, 1)
    ]
    torch.save(found, f"{folder}/{rank}.pt")
    leave_process_group()


def test_two_ranks_train_as_one_does_on_a_mean_over_tokens(tmp_path):
    start_processes(train_in_rank, (str(tmp_path),), nprocs=2)
    alone = trained(NextToken())
    assert math.isfinite(alone["losses"].sum())
    for rank in range(2):
        for found in torch.load(tmp_path / f"{rank}.pt"):
            torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-12)


def test_without_a_size_the_parts_count_by_their_examples():
    class Plain:
        def loss(self, model, batch):
            return model(batch).mean()

        def score(self, model, batches):
            return {}

    batch = torch.arange(5.0)
    assert [share for _, share in split_batch(Plain(), batch, 2)] == [1 / 5, 2 / 5, 2 / 5]
    assert [local_shard(Plain(), batch, rank, 2).weight for rank in range(2)] == [2 * 2 / 5, 3 * 2 / 5]
