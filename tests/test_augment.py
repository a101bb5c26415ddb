"""Augmentations: against a loop over single images, and against torchvision's own."""

from functools import partial

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lab.augment.chain import chain
from lab.augment.flip_crop import flip_crop
from lab.augment.mix import cutmix, mixup
from lab.augment.randaugment import NUM_BINS, make_operations, randaugment
from lab.augment.random_erasing import random_erasing
from lab.seeding import make_generator

ERASING = {"probability": 0.5, "area": [0.02, 0.4], "aspect": [0.3, 3.33]}
MOVING = {
    "flip_crop": partial(flip_crop, padding=2),
    "randaugment": partial(randaugment, num_ops=2, magnitude=9),
    "mixup": partial(mixup, num_classes=5, alpha=0.2),
    "cutmix": partial(cutmix, num_classes=5, alpha=1.0),
}


@pytest.fixture
def batch():
    draw = make_generator(0, "test")
    return torch.randint(0, 256, (12, 3, 10, 8), generator=draw, dtype=torch.uint8), torch.arange(12) % 5


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_flip_crop_crops_each_padded_image_and_then_flips_half_of_them(batch, padding, flip, dtype, memory_format):
    images, labels = batch[0].to(dtype, memory_format=memory_format), batch[1]
    augmented, same = flip_crop((images, labels), make_generator(0, "augment"), padding=padding, flip=flip)
    assert torch.equal(labels, same)
    assert augmented.is_contiguous()
    draw = make_generator(0, "augment")
    corners = torch.randint(0, 2 * padding + 1, (2, 12), generator=draw).T.tolist()
    flipped = (torch.rand(12, generator=draw) < 0.5).tolist() if flip else [False] * 12
    assert not flip or set(flipped) == {False, True}
    for image, (top, left), mirrored, result in zip(images, corners, flipped, augmented, strict=True):
        crop = F.crop(F.pad(image, [padding]), top, left, 10, 8)
        assert torch.equal(F.horizontal_flip(crop) if mirrored else crop, result)


def test_the_same_generator_gives_the_same_augmentation(batch):
    for augment in (*MOVING.values(), partial(random_erasing, **ERASING)):
        before = torch.get_rng_state()
        first, again = (augment(batch, make_generator(1, "augment")) for _ in range(2))
        assert all(map(torch.equal, first, again))
        assert not torch.equal(first[0], augment(batch, make_generator(2, "augment"))[0])
        assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", list(v2.RandAugment._AUGMENTATION_SPACE))
@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_operation_of_randaugment_is_torchvisions(batch, name, magnitude, channels):
    images = batch[0][:, :channels]

    class Only(v2.RandAugment):
        _AUGMENTATION_SPACE = {name: v2.RandAugment._AUGMENTATION_SPACE[name]}

    reference = Only(num_ops=1, magnitude=magnitude)
    operation, scale, signed = make_operations(width=8, height=10)[name]
    amount = scale * magnitude / (NUM_BINS - 1)
    ours = [operation(images, sign * amount) for sign in ((1, -1) if signed else (1,))]
    for _ in range(4):  # the sign is drawn
        theirs = reference(images)
        # one level of gray: torchvision rounds the same amount through float32
        assert any((images.int() - theirs.int()).abs().max() <= 1 for images in ours)


def test_randaugment_gives_images_of_one_batch_different_operations(batch):
    images, labels = batch
    same = images[:1].expand(12, -1, -1, -1)
    augmented, _ = randaugment((same, labels), make_generator(0, "augment"), num_ops=2, magnitude=15)
    assert augmented.dtype == torch.uint8
    assert len(augmented.flatten(1).unique(dim=0)) > 6
    with pytest.raises(ValueError, match="magnitude 31"):
        randaugment(batch, make_generator(0, "augment"), num_ops=1, magnitude=31)


def test_mixed_labels_are_the_shares_of_the_mixed_images(batch):
    images, labels = batch
    mixed, probabilities = mixup(batch, make_generator(0, "augment"), num_classes=5, alpha=1.0)
    assert torch.allclose(probabilities.sum(1), torch.ones(12))
    partner = labels.roll(1, 0)
    lam = probabilities[torch.arange(12), labels][labels != partner]
    assert lam.std() < 1e-6
    assert torch.allclose(mixed, images * lam[0] + images.roll(1, 0) * (1 - lam[0]), atol=1e-3)


def test_a_chain_applies_one_after_the_other(batch):
    parts = [MOVING["flip_crop"], MOVING["mixup"]]
    whole = chain(batch, make_generator(0, "augment"), augmentations=parts)
    draw = make_generator(0, "augment")
    assert torch.equal(whole[0], parts[1](parts[0](batch, draw), draw)[0])


@pytest.mark.parametrize(("height", "width"), [(60, 60), (48, 80)])
def test_random_erasing_covers_one_rectangle_of_half_the_images_within_the_papers_ranges(height, width):
    images = torch.full((4000, 2, height, width), 7, dtype=torch.uint8)
    erased, _ = random_erasing((images, None), make_generator(0, "augment"), **ERASING, value=200)
    changed = erased == 200
    assert torch.equal(erased == 7, ~changed)
    assert torch.equal(changed[:, 0], changed[:, 1])
    rows, columns = changed[:, 0].any(2), changed[:, 0].any(1)
    heights, widths = rows.sum(1), columns.sum(1)
    assert torch.equal(changed[:, 0], rows[:, :, None] & columns[:, None, :])
    # the rows are one unbroken run
    assert torch.equal(heights, rows.long().diff(dim=1, prepend=torch.zeros(4000, 1)).abs().cumsum(1).eq(1).sum(1))
    chosen = heights > 0
    assert chosen.float().mean() == pytest.approx(0.5, abs=0.03)
    areas = (heights * widths)[chosen] / (height * width)
    assert 0.015 < areas.min() < 0.03
    assert 0.35 < areas.max() < 0.42
    large = chosen & (heights * widths > 100)  # of small ones rounding to whole pixels shows in the ratio
    ratios = (heights / widths)[large]
    assert 0.25 < ratios.min() < 0.4
    assert 2.8 < ratios.max() < 3.8
    # anywhere: the outermost rows and columns are reached
    assert all(changed[:, 0].any(0)[place].any() for place in (0, -1, (slice(None), 0), (slice(None), -1)))


def test_random_erasing_fills_with_a_value_or_with_noise_of_each_pixel():
    images = torch.full((64, 3, 16, 16), 7, dtype=torch.uint8)
    always = {**ERASING, "probability": 1.0}
    noisy, _ = random_erasing((images, None), make_generator(0, "augment"), **always)
    changed = (noisy != 7).any(1)
    filled = noisy.permute(0, 2, 3, 1)[changed]
    assert noisy.dtype == torch.uint8
    assert filled.float().mean() == pytest.approx(127.5, abs=5)
    assert len(filled.unique(dim=0)) > 0.99 * len(filled)
    assert torch.equal(images, torch.full_like(images, 7)), "the batch itself was changed"
    never, _ = random_erasing((images, None), make_generator(0, "augment"), **{**ERASING, "probability": 0.0})
    assert torch.equal(never, images)


def test_random_erasing_takes_what_mixing_made_and_refuses_what_is_no_range(batch):
    mixed = mixup(batch, make_generator(0, "augment"), num_classes=5, alpha=0.2)
    erased, labels = random_erasing(mixed, make_generator(0, "augment"), **{**ERASING, "probability": 1.0})
    assert erased.dtype == torch.float32
    assert torch.equal(labels, mixed[1])
    assert not torch.equal(erased, mixed[0])
    for wrong in ({"area": [0.4, 0.02]}, {"probability": 2}, {"aspect": [0, 1]}, {"value": 256}):
        with pytest.raises(ValueError, match=r"area|probability|value"):
            random_erasing(batch, make_generator(0, "augment"), **{**ERASING, **wrong})


DENSE_TARGETS = {
    "masks": (torch.zeros(12, 10, 8, dtype=torch.int64), r"int64\[12, 10, 8\]"),
    "depth maps": (torch.zeros(12, 1, 10, 8), r"float32\[12, 1, 10, 8\]"),
    "boxes": ([torch.zeros(2, 4)] * 12, r"\(float32\[2, 4\], .*\.\.\.\)"),
    "boxes by name": (
        {"boxes": torch.zeros(12, 4), "labels": torch.zeros(12)},
        r"\{boxes: float32\[12, 4\], labels: .*\}",
    ),
    "labels of another batch": (torch.zeros(11), r"float32\[11\]"),
    "no targets": (None, "NoneType"),
}


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("kind", DENSE_TARGETS)
def test_what_moves_images_but_not_their_targets_takes_labels_alone(batch, name, kind):
    targets, shapes = DENSE_TARGETS[kind]
    message = (
        rf"{name} changes the images and not their targets.*\(12,\) or \(12, C\); got {shapes}; give augment=none, or"
    )
    for augment in (MOVING[name], partial(chain, augmentations=[partial(random_erasing, **ERASING), MOVING[name]])):
        with pytest.raises(ValueError, match=message):
            augment((batch[0], targets), make_generator(0, "augment"))


@pytest.mark.parametrize("name", MOVING)
def test_labels_may_be_mixed_already_and_a_batch_a_list_as_loaders_give_it(batch, name):
    mixed = list(mixup(batch, make_generator(0, "augment"), num_classes=5, alpha=1.0))
    images = mixed[0].round().to(torch.uint8)
    augmented, probabilities = MOVING[name]([images, mixed[1]], make_generator(1, "augment"))
    assert augmented.shape == images.shape
    assert torch.allclose(probabilities.sum(1), torch.ones(12))


def test_random_erasing_moves_nothing_and_so_leaves_targets_of_any_kind_as_they_are(batch):
    for targets, _ in DENSE_TARGETS.values():
        _, same = random_erasing((batch[0], targets), make_generator(0, "augment"), **ERASING)
        assert same is targets


@pytest.mark.parametrize("augment", [*MOVING.values(), partial(random_erasing, **ERASING)])
@pytest.mark.parametrize(
    ("other", "shapes"),
    [
        ((torch.zeros(12, 2), torch.zeros(12)), r"\(float32\[12, 2\], float32\[12\]\)"),
        ({"image": torch.zeros(12, 3, 10, 8)}, r"\{image: float32\[12, 3, 10, 8\]\}"),
        ((torch.zeros(12, 3, 10, 8), torch.zeros(12), torch.zeros(12)), r"\(float32\[12, 3, 10, 8\], .*\)"),
        (torch.zeros(2, 3, 10, 8), r"float32\[2, 3, 10, 8\]"),
    ],
)
def test_a_batch_that_is_not_images_and_targets_is_refused(augment, other, shapes):
    with pytest.raises(ValueError, match=rf"batches of two parts, images .*; got {shapes}; give augment=none"):
        augment(other, make_generator(0, "augment"))


@pytest.mark.parametrize("mix", [mixup, cutmix])
@pytest.mark.parametrize("seed", range(5))
def test_randaugment_after_mixing_is_refused_by_the_order_and_before_it_works(batch, mix, seed):
    mixing = partial(mix, num_classes=5, alpha=0.2)
    operations = partial(randaugment, num_ops=2, magnitude=9)
    with pytest.raises(ValueError, match=r"randaugment takes uint8 .*got float32\[.*put randaugment before them"):
        chain(batch, make_generator(seed, "augment"), augmentations=[mixing, operations])
    images, labels = chain(batch, make_generator(seed, "augment"), augmentations=[operations, mixing])
    assert (images.dtype, labels.shape) == (torch.float32, (12, 5))


@pytest.mark.parametrize("images", [torch.zeros(12, 3, 10, 8, dtype=torch.int64), torch.zeros(12, 2, 10, 8).byte()])
def test_randaugment_refuses_images_of_another_type_or_number_of_channels(batch, images):
    with pytest.raises(ValueError, match="uint8 images of 1 or 3 channels"):
        randaugment((images, batch[1]), make_generator(0, "augment"), num_ops=1, magnitude=9)


@pytest.mark.parametrize("mix", [mixup, cutmix])
@pytest.mark.parametrize("targets", [torch.zeros(12), torch.zeros(12, 3), torch.zeros(12, 5, dtype=torch.int64)])
def test_targets_that_are_no_classes_are_not_mixed(batch, mix, targets):
    with pytest.raises(ValueError, match=rf"{mix.__name__} mixes labels of 5 classes.*got .*; give augment=none"):
        mix((batch[0], targets), make_generator(0, "augment"), num_classes=5, alpha=0.2)
