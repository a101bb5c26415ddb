"""Data sets: their splits, their order by position, their errors."""

import itertools
import os
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score

from lab.data.bccd import CLASSES, bccd_cells
from lab.data.cache import cached
from lab.data.cifar10 import cifar10
from lab.data.decode import decode_image
from lab.data.digits import digits, read_digits
from lab.data.image_folder import image_folder
from lab.data.in_memory import Examples, InMemory, split_examples
from lab.data.order import balanced_indices, split_indices
from lab.data.streamed import Streamed
from lab.data.synthetic import synthetic
from lab.metrics.classification import ClassificationCounts


def numbered(num: int, val_share: float = 0.1) -> InMemory:
    """Examples whose input and label are their own index."""
    examples = Examples(torch.arange(num)[:, None].float(), torch.arange(num))
    train, val = split_examples(examples, val_share, seed=0)
    return InMemory(train, val, examples, batch_size=8, seed=0)


def test_train_and_validation_are_disjoint_and_drawn_from_the_seed():
    train, val = split_indices(100, 0.2, seed=1)
    assert len(val) == 20
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(100))
    assert not torch.equal(val, split_indices(100, 0.2, seed=2)[1])
    assert torch.equal(val, split_indices(100, 0.2, seed=1)[1])


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


def test_a_few_examples_are_as_many_of_each_class_as_there_are():
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)[torch.randperm(73)]
    for num, counts in ((3, [1, 1, 1]), (9, [3, 3, 3]), (15, [6, 3, 6]), (50, [27, 3, 20]), (73, [50, 3, 20])):
        chosen = balanced_indices(labels, num, seed=0)
        assert labels[chosen].bincount().tolist() == counts
        assert len(set(chosen.tolist())) == num
    assert sorted(labels[balanced_indices(labels, 10, seed=0)].bincount().tolist()) == [3, 3, 4]


def test_a_few_examples_are_drawn_from_the_seed_and_part_of_a_larger_draw():
    labels = torch.arange(1000) % 10
    few = balanced_indices(labels, 20, seed=1)
    assert torch.equal(few, balanced_indices(labels, 20, seed=1))
    assert not torch.equal(few, balanced_indices(labels, 20, seed=2))
    assert set(few.tolist()) < set(balanced_indices(labels, 37, seed=1).tolist())
    assert len({tuple(balanced_indices(labels, 20, seed=seed).tolist()) for seed in range(50)}) == 50


def test_few_training_examples_leave_validation_and_test_as_they_were():
    few, all_of_them = digits(16, seed=3, train_examples=100), digits(16, seed=3)
    assert few.splits["train"].labels.bincount().tolist() == [10] * 10
    assert few.steps_per_epoch == 6
    for part in ("val", "test"):
        assert torch.equal(few.splits[part].inputs, all_of_them.splits[part].inputs)
    known = {bytes(image.numpy()) for image in all_of_them.splits["train"].inputs}
    assert {bytes(image.numpy()) for image in few.splits["train"].inputs} < known


@pytest.mark.parametrize("num", [0, -1, 1295])
def test_more_training_examples_than_there_are_is_an_error_that_counts_them(num):
    with pytest.raises(ValueError, match=rf"train_examples={num} is not from 1 to 1294.*null takes them all"):
        digits(16, seed=0, train_examples=num)


def test_digits_in_colour_are_the_same_digits_resized():
    small, large = digits(64, seed=0), digits(64, seed=0, shape=[3, 32, 32])
    raw = torch.from_numpy(load_digits().images).mul(255 / 16).round().to(torch.uint8)[:, None]
    assert torch.equal(small.splits["test"].inputs, raw[split_indices(1797, 0.2, seed=0)[1]])
    images = large.splits["test"].inputs
    assert images.shape == (359, 3, 32, 32)
    assert torch.equal(images[:, 0], images[:, 2])
    assert torch.equal(small.splits["test"].labels, large.splits["test"].labels)
    resized = F.interpolate(small.splits["test"].inputs.double(), (32, 32), mode="bilinear")
    assert (resized - images[:, :1]).abs().max() <= 1  # rounded to uint8 once, not twice
    batch, _ = large.prepare((images, large.splits["test"].labels))
    assert torch.allclose(batch, (images / 255 - 0.305) / 0.376, atol=1e-5)


@pytest.mark.parametrize(
    "facts", [{"shape": [2, 8, 8]}, {"shape": [8, 8]}, {"shape": [3, 8, 8], "mean": [0.5, 0.5]}, {"num_classes": 9}]
)
def test_facts_that_no_digits_can_have_are_refused(facts):
    with pytest.raises(ValueError, match=r"gray|channels|10 classes"):
        digits(64, seed=0, **facts)


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


def test_a_data_set_that_is_not_of_images_brings_its_own_prepare():
    tokens = Examples(torch.tensor([[5, 7, 0, 0], [3, 0, 0, 0], [4, 0, 0, 0]]), torch.arange(3))

    def cut_padding(batch):
        inputs, labels = batch
        return inputs[:, : int((inputs != 0).sum(1).max())], labels

    held = InMemory(tokens, tokens, tokens, batch_size=2, seed=0, prepare=cut_padding)
    streamed = Streamed(*[list(zip(*tokens, strict=True))] * 3, batch_size=3, seed=0, workers=0, prepare=cut_padding)
    assert [held.prepare(batch)[0].tolist() for batch in held.val()] == [[[5, 7], [3, 0], [4, 0]]]
    assert [streamed.prepare(batch)[0].tolist() for batch in streamed.test()] == [[[5, 7], [3, 0], [4, 0]]]


def test_without_a_prepare_the_model_takes_the_examples_as_they_are():
    batch = next(numbered(20).batches())
    assert numbered(20).prepare(batch) is batch


def test_cifar10_reads_the_parquet_files(real_data):
    data = cifar10(str(real_data / "cifar10"), batch_size=50, seed=0, limit=200, val_share=0.25)
    assert [len(part.labels) for part in data.splits.values()] == [150, 50, 200]
    assert data.splits["test"].inputs.shape == (200, 3, 32, 32)
    assert torch.bincount(data.splits["test"].labels).tolist() == [20] * 10


def test_cifar10_says_what_to_place_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"place train\.parquet and test\.parquet there.*data\.download=true"):
        cifar10(str(tmp_path), batch_size=50, seed=0)


def test_pixels_are_decoded_once(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    monkeypatch.setenv("LAB_CACHE_GB", "1")
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        table = parquet.read_table(real_data / "cifar10" / f"{split}.parquet").slice(0, 300)
        parquet.write_table(table, folder / f"{split}.parquet")
    first = cifar10(str(folder), 50, seed=0)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    monkeypatch.setattr("lab.data.cifar10.decode_image", None)
    again = cifar10(str(folder), 50, seed=0)
    for split in ("train", "val", "test"):
        assert all(map(torch.equal, first.splits[split], again.splits[split]))
    parquet.write_table(table.slice(0, 200), folder / "test.parquet")
    with pytest.raises(TypeError):
        cifar10(str(folder), 50, seed=0)  # other content is decoded anew


def test_a_folder_of_images_is_decoded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LAB_CACHE_GB", "1")
    monkeypatch.setattr("lab.data.image_folder.WORTH_BYTES", 1)
    for split, name, number in itertools.product(("train", "test"), ("a", "b"), range(6)):
        (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (number * 40, 0, len(split))).save(tmp_path / split / name / f"{number}.png")
    facts = {"num_classes": 2, "classes": ["a", "b"], "shape": [3, 8, 8], "mean": [0.5], "std": [0.5]}

    def read(seed):
        return image_folder(str(tmp_path), batch_size=2, seed=seed, val_share=0.25, **facts)

    first = [read(0), read(1)]
    monkeypatch.setattr("lab.data.image_folder.load_examples", None)
    for seed in (0, 1):
        for split, examples in read(seed).splits.items():
            assert all(map(torch.equal, examples, first[seed].splits[split]))
    Image.new("RGB", (9, 9), "white").save(tmp_path / "test" / "a" / "0.png")
    with pytest.raises(TypeError):
        read(0)


def test_a_few_images_of_a_folder_that_does_not_fit_are_decoded_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LAB_CACHE_GB", "1")
    monkeypatch.setattr("lab.data.image_folder.WORTH_BYTES", 1)
    for split, number in (("train", 40), ("test", 2)):
        (tmp_path / split / "a").mkdir(parents=True)
        for place in range(number):
            Image.new("RGB", (9, 9), (place, 0, 0)).save(tmp_path / split / "a" / f"{place}.png")
    facts = {"num_classes": 1, "classes": ["a"], "shape": [3, 100, 100], "mean": [0.5], "std": [0.5]}
    decoded = []
    monkeypatch.setattr(
        "lab.data.image_folder.decode_image", lambda path, upright: decoded.append(path) or decode_image(path)
    )
    data = image_folder(str(tmp_path), batch_size=2, seed=0, val_share=0.1, train_examples=4, in_memory_mb=1, **facts)
    assert len(data.splits["train"].labels) == 4
    assert len(decoded) == 4 + 4 + 2
    assert not (tmp_path / "cache").exists()


def test_the_cache_keeps_to_its_limit_and_a_damaged_file_is_made_again(tmp_path):
    def keep(name, limit=2500):
        return cached(tmp_path, [name], lambda: {"x": torch.full((1000,), ord(name), dtype=torch.uint8)}, limit)

    for place, name in enumerate("abc"):
        keep(name)
        for file in tmp_path.iterdir():
            os.utime(file, (place, place)) if file.stat().st_mtime > 10**6 else None
    assert len(list(tmp_path.iterdir())) == 2
    for file in tmp_path.iterdir():
        file.write_bytes(b"damaged")
    assert keep("c")["x"][0] == ord("c")
    assert keep("d", limit=10)["x"][0] == ord("d"), "what is larger than the limit is not kept"


def test_bccd_gives_single_cells_in_the_official_splits(real_data):
    data = bccd_cells(str(real_data / "bccd" / "BCCD"), batch_size=50, seed=0)
    # the boxes in the files, but for an RBC without area in train and one in val
    counts = [part.labels.bincount().tolist() for part in data.splits.values()]
    assert counts == [[2382 - 1, 214, 209], [968 - 1, 87, 83], [805, 71, 69]]
    assert data.splits["test"].inputs.shape == (945, 3, 32, 32)
    # red cells are redder than they are blue, white cells have a dark blue nucleus
    red, _, blue = (data.splits["test"].inputs[:, :, 8:24, 8:24].float().mean((2, 3))).unbind(1)
    red_cells, white_cells, _ = ((data.splits["test"].labels == label) for label in range(3))
    assert (red > blue)[red_cells].float().mean() > 0.9
    assert (blue > red)[white_cells].float().mean() > 0.9


def test_a_few_cells_are_balanced_and_leave_validation_and_test_as_they_were(real_data):
    few, all_of_them = (
        bccd_cells(str(real_data / "bccd" / "BCCD"), 50, seed=0, train_examples=num) for num in (60, None)
    )
    assert few.splits["train"].labels.bincount().tolist() == [20, 20, 20]
    assert all(torch.equal(few.splits[part].inputs, all_of_them.splits[part].inputs) for part in ("val", "test"))


def smear(root, boxes: str, head: str = "") -> str:
    """BCCD with one image of 40 x 30 in each split, the same in all: a red square on white at (4, 3) to (12, 9)."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    image = Image.new("RGB", (40, 30), "white")
    image.paste((255, 0, 0), (4, 3, 12, 9))
    image.save(root / "JPEGImages" / "A.jpg", quality=100, subsampling=0)
    (root / "Annotations" / "A.xml").write_text(f"{head}<annotation>{boxes}</annotation>")
    for part in ("train", "val", "test"):
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("A\n")
    return str(root)


def box(name: str, left: int, top: int, right: int, bottom: int) -> str:
    sides = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"


def test_a_crop_is_the_square_around_its_box_moved_into_the_image(tmp_path):
    boxes = [box("WBC", 4, 3, 12, 9), box("RBC", 4, 3, 4, 9), box("Platelets", 0, 0, 40, 30)]
    data = bccd_cells(smear(tmp_path, "".join(boxes)), 2, seed=0, shape=[3, 8, 8], margin=0)
    images, labels = data.splits["train"]
    assert [CLASSES[label] for label in labels] == ["WBC", "Platelets"], "a box without area is no cell"
    red = images[0, 1].lt(128).float()  # 8 x 8 from row 2: a white row, six red ones, a white one
    assert red.mean(1).tolist() == [0, 1, 1, 1, 1, 1, 1, 0]
    assert images[1].shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("boxes", "head", "message"),
    [
        (box("Platelet", 4, 3, 12, 9), "", r"A.xml:\d+: no class 'Platelet'; did you mean 'Platelets'"),
        ("<object><name>RBC</name></object>", "", r"A.xml:1: the object 'RBC' has no bndbox/xmin"),
        ("<object>", "", "A.xml:1 is no XML"),
        (box("RBC", 4, 3, 41, 9), "", r"\(4, 3, 41, 9\) lies outside .*A.jpg, which is 40 pixels wide, 30 high"),
        (box("RBC", 4, 3, 12, 9), '<!DOCTYPE a [<!ENTITY x "y">]>', "A.xml has a DOCTYPE"),
    ],
)
def test_an_annotation_that_cannot_be_trusted_is_refused_by_its_file(tmp_path, boxes, head, message):
    with pytest.raises(ValueError, match=message):
        bccd_cells(smear(tmp_path, boxes, head), 2, seed=0)


def test_a_split_that_leads_out_of_its_folder_is_refused(tmp_path):
    folder = smear(tmp_path / "BCCD", box("RBC", 4, 3, 12, 9))
    (tmp_path / "BCCD" / "ImageSets" / "Main" / "val.txt").write_text("A\n../Annotations/A\n")
    with pytest.raises(ValueError, match=r"val\.txt lists '\.\./Annotations/A', which is a path"):
        bccd_cells(folder, 2, seed=0)


def test_bccd_says_what_to_place_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"place JPEGImages, Annotations and ImageSets .* data\.folder="):
        bccd_cells(str(tmp_path), batch_size=50, seed=0)


def test_balanced_accuracy_is_scikit_learns():
    torch.manual_seed(0)
    labels = torch.multinomial(torch.tensor([0.85, 0.1, 0.05, 0.0]), 500, replacement=True)
    logits = torch.randn(500, 4) + 1.5 * F.one_hot(labels, 4)
    counts = ClassificationCounts(4, labels.device)
    for part in zip(logits.split(64), labels.split(64), strict=True):
        counts.add(*part)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(labels, logits.argmax(1))
    scores = counts.scores(["a", "b", "c", "d"])
    assert scores["balanced_accuracy"] == pytest.approx(expected)
    assert scores["balanced_accuracy"] != pytest.approx(scores["accuracy"], abs=0.01)


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


@pytest.mark.parametrize("facts", [{}, {"train_examples": 12}])
def test_training_images_can_be_had_in_the_same_order_without_their_random_crops(flowers, facts):
    options = {**FACTS, **facts, "batch_size": 6, "seed": 0, "workers": 0}
    cropped = image_folder(str(flowers), **options, random_crop=True)
    middles = image_folder(str(flowers), **options)
    for ours, theirs in zip(islice(cropped.plain(1), 4), islice(middles.batches(1), 4), strict=True):
        assert all(map(torch.equal, ours, theirs))
    assert not torch.equal(next(cropped.batches(1))[0], next(cropped.plain(1))[0])
    assert cropped.val_examples == middles.val_examples == 4


def test_random_crops_differ_from_epoch_to_epoch_but_not_from_run_to_run(flowers):
    options = {**FACTS, "batch_size": 36, "seed": 0, "workers": 0, "random_crop": True}
    a, b = (list(islice(image_folder(str(flowers), **options).batches(), 2)) for _ in range(2))
    assert torch.equal(a[0][0], b[0][0])
    assert not torch.equal(a[0][0][a[0][1].argsort()], a[1][0][a[1][1].argsort()])


def test_a_test_class_unknown_to_training_is_refused(flowers):
    (flowers / "test" / "rose").mkdir()
    with pytest.raises(ValueError, match="did you mean 'roses'"):
        image_folder(str(flowers), **FACTS, batch_size=4, seed=0)


def test_a_few_images_of_a_folder_are_the_same_in_memory_and_streamed(flowers):
    options = {**FACTS, "batch_size": 10, "seed": 0, "workers": 0, "train_examples": 10}
    for (images, labels), (images_again, labels_again) in zip(
        islice(image_folder(str(flowers), **options).batches(), 3),
        islice(image_folder(str(flowers), **options, in_memory_mb=0).batches(), 3),
        strict=True,
    ):
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)
        assert labels.bincount().tolist() == [5, 5]


def test_corrupted_digits_have_wrong_labels_in_training_alone():
    from lab.data.corrupted_digits import corrupted_digits
    from lab.data.digits import digits

    clean, wrong = digits(64, seed=3), corrupted_digits(64, seed=3, label_noise=0.25)
    same = [torch.equal(clean.splits[name].labels, wrong.splits[name].labels) for name in ("train", "val", "test")]
    assert same == [False, True, True]
    share = (clean.splits["train"].labels != wrong.splits["train"].labels).float().mean()
    assert abs(share - 0.25) < 0.04  # 1,294 labels: three standard deviations
    assert torch.equal(clean.splits["train"].inputs, wrong.splits["train"].inputs)
    assert set(wrong.splits["train"].labels.tolist()) <= set(range(10))
    with pytest.raises(ValueError, match="not in"):
        corrupted_digits(64, seed=3, label_noise=1.5)


def test_corrupted_digits_distort_the_test_images_alone():
    from lab.data.corrupted_digits import corrupted_digits
    from lab.data.digits import digits

    clean, turned = digits(64, seed=3), corrupted_digits(64, seed=3, test_degrees=90.0)
    assert torch.equal(clean.splits["train"].inputs, turned.splits["train"].inputs)
    assert torch.equal(torch.rot90(clean.splits["test"].inputs, dims=(2, 3)), turned.splits["test"].inputs)
    noisy = corrupted_digits(64, seed=3, test_noise=0.1).splits["test"].inputs.float()
    middle = (clean.splits["test"].inputs > 80) & (clean.splits["test"].inputs < 170)  # far from being clipped
    assert abs((noisy - clean.splits["test"].inputs)[middle].std() / 255 - 0.1) < 0.01


def test_modular_addition_is_all_pairs():
    from lab.data.modular_addition import modular_addition

    data = modular_addition(100, seed=0, prime=7, inputs=14)
    pairs = torch.cat([split.inputs for split in data.splits.values()])
    labels = torch.cat([split.labels for split in data.splits.values()])
    a, b = pairs[:, :7].argmax(1), pairs[:, 7:].argmax(1)
    assert torch.equal((a + b) % 7, labels)
    assert len({(int(x), int(y)) for x, y in zip(a, b, strict=True)}) == 49
    with pytest.raises(ValueError, match=r"data\.inputs=14"):
        modular_addition(100, seed=0, prime=7, inputs=10)


def test_the_digits_are_scikit_learns():
    images, labels = read_digits()
    theirs = load_digits()
    assert torch.equal(images, torch.from_numpy(theirs.images))
    assert torch.equal(labels, torch.from_numpy(theirs.target).long())
