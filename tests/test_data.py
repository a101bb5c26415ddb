"""Data sets: their splits, their order by position, their errors."""

from itertools import islice

import pytest
import torch
from PIL import Image

from lab.data.cifar10 import cifar10
from lab.data.digits import digits
from lab.data.image_folder import image_folder
from lab.data.in_memory import Examples, InMemory
from lab.data.order import split
from lab.data.streamed import Streamed
from lab.data.synthetic import synthetic


def numbered(num: int, **options) -> InMemory:
    """Examples whose input and label are their own index."""
    train = Examples(torch.arange(num)[:, None].float(), torch.arange(num))
    return InMemory(train, train, batch_size=8, seed=0, **options)


def test_train_and_validation_are_disjoint_and_drawn_from_the_seed():
    train, val = split(100, 0.2, seed=1)
    assert len(val) == 20
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(100))
    assert not torch.equal(val, split(100, 0.2, seed=2)[1])
    assert torch.equal(val, split(100, 0.2, seed=1)[1])


def test_the_test_set_is_the_same_for_every_seed():
    a, b = digits(64, seed=0), digits(64, seed=1)
    assert torch.equal(a.splits["test"].inputs, b.splits["test"].inputs)
    assert not torch.equal(a.splits["val"].inputs, b.splits["val"].inputs)
    assert sum(len(part.labels) for part in a.splits.values()) == 1797


def test_an_epoch_sees_every_example_at_most_once_in_full_batches():
    data = numbered(45, val_share=0)
    epoch = [labels for _, labels in islice(data.batches(), data.steps_per_epoch)]
    assert data.steps_per_epoch == 5
    assert {len(labels) for labels in epoch} == {8}
    assert len(set(torch.cat(epoch).tolist())) == 40


def test_batches_after_a_position_are_those_of_an_unbroken_pass():
    data = numbered(45)
    unbroken = [labels for _, labels in islice(data.batches(), 17)]
    for position in (1, 5, 11):
        resumed = [labels for _, labels in islice(data.batches(position), 17 - position)]
        assert all(map(torch.equal, unbroken[position:], resumed))


def test_a_set_smaller_than_a_batch_is_one_batch():
    data = numbered(5, val_share=0)
    assert [len(next(data.batches())[1]), data.steps_per_epoch] == [5, 1]


class Noisy:
    """A map-style data set that draws when it is read."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int):
        return torch.full((1, 2, 2), index, dtype=torch.uint8) + torch.randint(50, ()).to(torch.uint8), index


@pytest.mark.parametrize("workers", [1, 2])
def test_streamed_batches_are_the_same_bits_with_any_number_of_workers_from_any_position(workers):
    def stream(workers: int) -> Streamed:
        return Streamed(Noisy(), Noisy(), Noisy(), batch_size=8, seed=3, workers=workers)

    unbroken = list(islice(stream(0).batches(), 12))
    before = torch.get_rng_state()
    resumed = list(islice(stream(workers).batches(4), 8))
    assert torch.equal(before, torch.get_rng_state()), "reading data shifted the model's own randomness"
    for (images, labels), (images_again, labels_again) in zip(unbroken[4:], resumed, strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)
    first, second = (
        {
            int(label): int(image[0, 0, 0])
            for images, labels in epoch
            for image, label in zip(images, labels, strict=True)
        }
        for epoch in (unbroken[:5], unbroken[5:10])
    )
    assert first.keys() == second.keys()
    assert first != second, "each epoch draws anew"


def test_prepare_standardises_each_channel():
    data = synthetic(num_classes=4, shape=[3, 8, 8], batch_size=64, seed=0, num_examples=2000)
    images, _ = data.prepare((data.splits["train"].inputs, data.splits["train"].labels))
    raw = data.splits["train"].inputs.float() / 255
    assert torch.allclose(images, (raw - 0.5) / 0.125, atol=1e-5)


def test_cifar10_reads_the_parquet_files(real_data):
    data = cifar10(str(real_data / "cifar10"), batch_size=50, seed=0, limit=200, val_share=0.25)
    assert [len(part.labels) for part in data.splits.values()] == [150, 50, 200]
    assert data.splits["test"].inputs.shape == (200, 3, 32, 32)
    assert torch.bincount(data.splits["test"].labels).tolist() == [20] * 10


def test_cifar10_says_what_to_place_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"place train\.parquet and test\.parquet there.*data\.download=true"):
        cifar10(str(tmp_path), batch_size=50, seed=0)


@pytest.fixture
def flowers(tmp_path):
    """Two classes of pictures, 40x30 and red or blue."""
    for part, num in (("train", 20), ("test", 6)):
        for channel, name in ((0, "roses"), (2, "violets")):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(num):
                image = torch.randint(0, 60, (3, 40, 30), dtype=torch.uint8)
                image[channel] += 150
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / part / name / f"{number:02}.png")
    return tmp_path


FACTS = {"num_classes": 2, "classes": ["roses", "violets"], "shape": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}


def test_a_folder_of_images_in_memory_and_streamed_gives_the_same_batches(flowers):
    options = {**FACTS, "batch_size": 4, "seed": 0, "workers": 0}
    held = image_folder(str(flowers), **options)
    streamed = image_folder(str(flowers), **options, in_memory_mb=0)
    assert isinstance(held, InMemory)
    assert isinstance(streamed, Streamed)
    for (a, labels_a), (b, labels_b) in zip(islice(held.batches(3), 12), islice(streamed.batches(3), 12), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(labels_a, labels_b)
    assert all(
        (images[:, 0] > images[:, 2]).float().mean((1, 2)).gt(0.9).tolist() == (labels == 0).tolist()
        for images, labels in held.test()
    )


def test_random_crops_differ_from_epoch_to_epoch_but_not_from_run_to_run(flowers):
    options = {**FACTS, "batch_size": 36, "seed": 0, "workers": 0, "random_crop": True}
    a, b = (list(islice(image_folder(str(flowers), **options).batches(), 2)) for _ in range(2))
    assert torch.equal(a[0][0], b[0][0])
    assert not torch.equal(a[0][0][a[0][1].argsort()], a[1][0][a[1][1].argsort()])


def test_a_test_class_unknown_to_training_is_refused(flowers):
    (flowers / "test" / "rose").mkdir()
    with pytest.raises(ValueError, match="did you mean 'roses'"):
        image_folder(str(flowers), **FACTS, batch_size=4, seed=0)
