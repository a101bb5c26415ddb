"""Object detection: boxes from files, detectors, COCO's scores, boxes that move with their images."""

import contextlib
import io
import json
import math

import pytest
import torch
from PIL import Image

from lab.augment.boxes_and_masks import BoxesAndMasks
from lab.data.coco import coco
from lab.data.voc import voc
from lab.finetune.backbone_layers import backbone_layers
from lab.metrics.detection import SUMMARY, DetectionResults
from lab.models.detector import KeptBatchNorm2d, detector
from lab.models.origin import origin_of
from lab.tasks.detection import Detection
from lab.train.micro_batches import local_shard, split_batch
from tests.conftest import only_run
from tests.gradients import assert_parts_add_up
from tests.squares import CLASSES, random_batch, small_detector, voc_object, write_annotation, write_coco, write_voc

SQUARES = (
    *("data=voc", "data.folder=squares", "data.classes=[red,blue]", "data.batch_size=4", "task=detection"),
    *("model=detector", "model._target_=tests.squares.small_detector"),
)


def read_voc(root, **options):
    return voc(str(root), CLASSES, 4, 0, **{"workers": 0, **options})


# scores


def random_results(seed: int) -> DetectionResults:
    """Crowds, images without truths or without detections, equal scores, and more boxes than COCO counts."""
    draw = torch.Generator().manual_seed(seed)

    def boxes(count: int):
        corners = torch.rand(count, 2, generator=draw) * 300
        return torch.cat([corners, corners + torch.rand(count, 2, generator=draw) * 200 + 1], 1)

    results = DetectionResults(3)
    for number in range(12):
        true, found = (0 if number in (3, 7) else 4), (0 if number in (5, 7) else 130 if number == 9 else 6)
        truth = {
            "boxes": boxes(true),
            "labels": torch.randint(1, 4, (true,), generator=draw),
            "iscrowd": torch.rand(true, generator=draw) < 0.2,
            "area": torch.rand(true, generator=draw) * 12000,
            "image_id": torch.tensor(900 + number),
        }
        near = truth["boxes"].repeat(2, 1)[:found] + torch.randn(min(found, 2 * true), 4, generator=draw) * 4
        output = {
            "boxes": torch.cat([near, boxes(found - len(near))]),
            "labels": torch.cat([truth["labels"].repeat(2)[:found], torch.ones(found - len(near), dtype=torch.int64)]),
            "scores": (torch.rand(found, generator=draw) * 10).round() / 10,
        }
        results.add(truth, output)
    return results


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_pycocotools(seed):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = random_results(seed)
    ours = results.scores(["a", "b", "c"])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = results.ground_truth()
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results.detections), "bbox")
        evaluator.params.imgIds = list(range(1, 13))
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    for name, place in SUMMARY.items():
        assert ours[name] == pytest.approx(evaluator.stats[place], abs=1e-12), name
    for label, name in enumerate(("a", "b", "c")):
        of_class = evaluator.eval["precision"][:, :, label, 0, -1]
        assert ours[f"map/{name}"] == pytest.approx(of_class[of_class > -1].mean(), abs=1e-12)


def test_false_detections_in_images_without_objects_count():
    box, nothing = torch.tensor([[0.0, 0.0, 50.0, 50.0]]), torch.zeros(0, 4)
    truth = {"boxes": box, "labels": torch.tensor([1])}
    empty = {"boxes": nothing, "labels": torch.zeros(0, dtype=torch.int64)}
    right, wrong = ({"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([s])} for s in (0.5, 0.9))
    results = DetectionResults(1)
    results.add(truth, right)
    assert results.scores(["a"])["map"] == pytest.approx(1)
    results.add(empty, wrong)
    assert results.scores(["a"])["map"] == pytest.approx(0.5)


def test_nothing_found_and_nothing_to_find_are_scores_of_0():
    truth = {"boxes": torch.tensor([[0.0, 0.0, 50.0, 50.0]]), "labels": torch.tensor([1])}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    results = DetectionResults(2)
    assert results.scores(["a", "b"]) == {}
    results.add(truth, nothing)
    assert results.scores(["a", "b"])["map/a"] == 0
    assert "map/b" not in results.scores(["a", "b"])
    results = DetectionResults(1)
    results.add(nothing, {**truth, "scores": torch.tensor([0.9])})
    assert results.scores(["a"])["map"] == 0
    assert all(map(math.isfinite, results.scores(["a"]).values()))


# data


def test_boxes_of_voc_become_edges_and_labels_from_1(tmp_path):
    data = read_voc(write_voc(tmp_path))
    images, targets = next(iter(data.test()))
    assert [list(image.shape) for image in images] == [[3, 40, 52], [3, 44, 56]]
    for image, target in zip(images, targets, strict=True):
        for (left, top, right, bottom), label in zip(target["boxes"].int().tolist(), target["labels"], strict=True):
            inside = image[:, top:bottom, left:right].flatten(1).unique(dim=1)
            assert inside.flatten().tolist() == [[220, 40, 40], [40, 40, 220]][int(label) - 1]
    zero_based = read_voc(tmp_path, one_based=False)
    assert (next(iter(zero_based.test()))[1][0]["boxes"] - targets[0]["boxes"]).tolist()[0] == [1, 1, 0, 0]
    assert data.description == "12 images with 24 boxes of 2 classes (8 train, 2 val, 2 test)"


def test_images_without_boxes_and_difficult_ones_are_kept(tmp_path):
    root = write_voc(tmp_path)
    write_annotation(root, "000", "")
    for name in ("001", "011"):
        write_annotation(root, name, voc_object("red", 1, 1, 9, 9) + voc_object("blue", 20, 20, 30, 30, difficult=1))
    data = read_voc(root, val_split=None, val_share=0)
    empty, hard = (data.splits["train"][place][1] for place in (0, 1))
    assert (empty["boxes"].shape, empty["boxes"].dtype) == ((0, 4), torch.float32)
    assert (empty["labels"].shape, empty["labels"].dtype) == ((0,), torch.int64)
    assert hard["labels"].tolist() == [1], "a difficult box is not trained on"
    scored = data.splits["test"][1][1]
    assert scored["iscrowd"].tolist() == [False, True], "nor counted as missed"


FAULTS = {
    "empty": (voc_object("red", 5, 5, 5, 20), [], "1 box left out, empty: 000.png [5, 5, 5, 20]"),
    "reversed": (voc_object("red", 20, 5, 10, 20), [], "1 box left out, reversed: 000.png [20, 5, 10, 20]"),
    "beyond": (voc_object("red", 90, 5, 99, 20), [], "1 box left out, outside the image: 000.png [89, 4, 99, 20]"),
    "over": (
        voc_object("red", 41, 5, 50, 20),
        [[40, 4, 48, 20]],
        "1 box clipped to the image: 000.png [40, 4, 50, 20]",
    ),
    "nan": (voc_object("red", float("nan"), 5, 9, 20), [], "1 box left out, not a number: 000.png [nan, 5, 9, 20]"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_boxes_at_fault_are_named_and_clipped_left_out_or_refused(tmp_path, name):
    objects, clipped, message = FAULTS[name]
    root = write_voc(tmp_path)
    write_annotation(root, "000", objects + voc_object("blue", 1, 1, 9, 9))
    data = read_voc(root)
    assert data.splits["train"][0][1]["boxes"].tolist() == [*clipped, [0, 0, 9, 9]]
    assert data.description.endswith(f"; {message}")
    assert read_voc(root, faulty_boxes="leave_out").splits["train"][0][1]["boxes"].tolist() == [[0, 0, 9, 9]]
    with pytest.raises(
        ValueError, match=r"1 box at fault, .*000\.png.*; correct them, or give data\.faulty_boxes=clip"
    ):
        read_voc(root, faulty_boxes="refuse")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>\n<object>", r"003\.xml:2 is no XML"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>', r"003\.xml has a DOCTYPE"),
        (f"<a>\n\n{voc_object('green', 1, 1, 9, 9)}</a>", r"xml:3 is a 'green'.*'data\.classes=\[blue,green,red\]'"),
        (f"<a>\n{voc_object('red', 1, 1, 9, 9).replace('xmax', 'right')}</a>", r"xml:2: .*'red' has no bndbox/xmax"),
        ("<a>\n<object><name>red</name><bndbox><xmin>a</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object></a>",
         r"003\.xml:2: the box of 'red' is \['a', '1', '2', '2'\], not four numbers"),
        ("<a>\n<object></object></a>", r"003\.xml:2: an object without a name"),
        (b"<a>\n\xff</a>", r"003\.xml:2 is not UTF-8"),
    ],
)  # fmt: skip
def test_a_broken_annotation_is_refused_by_its_line(tmp_path, content, message):
    root = write_voc(tmp_path)
    (root / "Annotations" / "003.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_voc(root)


def test_what_is_missing_is_named_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"place JPEGImages, Annotations and ImageSets/Main there"):
        read_voc(tmp_path)
    root = write_voc(tmp_path / "voc")
    with pytest.raises(
        FileNotFoundError, match=r"nope\.txt; place it there, or give data\.test_split=null for a share"
    ):
        read_voc(root, test_split="nope")
    (root / "JPEGImages" / "001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"001\.png is not an image"):
        read_voc(root)
    whole = (root / "JPEGImages" / "002.png").read_bytes()
    (root / "JPEGImages" / "001.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"1 of 12 images cannot be read: .*001\.png is not an image"):
        read_voc(root)
    (root / "JPEGImages" / "001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image 001 in .*JPEGImages; add it, or take it out of the split"):
        read_voc(root)


def test_every_annotated_image_is_split_where_no_split_is_given(tmp_path):
    root = write_voc(tmp_path)
    options = {"train_split": None, "val_split": None, "test_split": None, "test_share": 0.25, "val_share": 0.2}
    data = read_voc(root, **options)
    assert "(7 train, 2 val, 3 test)" in data.description
    some, more = ({int(read_voc(root, **options, train_examples=count).splits["train"][place][1]["image_id"])
                   for place in range(count)} for count in (3, 5))  # fmt: skip
    assert some < more


def test_coco_is_read_as_voc_is(tmp_path):
    file, folder = write_coco(tmp_path / "coco")
    voc_data = read_voc(write_voc(tmp_path / "voc"), train_split=None, val_split=None, test_split=None)
    data = coco(str(file), str(folder), CLASSES, 4, 0, workers=0)
    assert list(data.category_ids) == [3, 7]
    ours = {bytes(image.numpy()): target for image, target in all_examples(data)}
    for image, target in all_examples(voc_data):
        found = ours[bytes(image.numpy())]
        assert torch.equal(found["boxes"], target["boxes"])
        assert torch.equal(found["labels"], target["labels"])


def all_examples(data):
    return [data.splits[split][place] for split in ("train", "val", "test") for place in range(len(data.splits[split]))]


def test_coco_faults_are_refused_by_file_and_annotation(tmp_path):
    file, folder = write_coco(tmp_path)
    content = json.loads(file.read_text())

    def refused(message: str, **changed) -> None:
        file.write_text(json.dumps({**content, **changed}))
        with pytest.raises(ValueError, match=message):
            coco(str(file), str(folder), CLASSES, 4, 0, workers=0)

    row = content["annotations"][0]
    refused("annotation 0 is of image 5,", annotations=[{**row, "image_id": 5}])
    refused("annotation 0 is of category 9,", annotations=[{**row, "category_id": 9}])
    refused(r"annotation 0 has the bbox \[1, 2\], not four", annotations=[{**row, "bbox": [1, 2]}])
    refused(r"annotations\[0\] does not have image_id, category_id, bbox", annotations=[{"id": 1}])
    refused(r"has no list of images", images=None)
    refused(r"they are 'data\.classes=\[cat\]'", categories=[{"id": 1, "name": "cat"}])
    refused(
        r"lists the image '\.\./x\.png', which is not below",
        images=[{**row, "file_name": "../x.png"} for row in content["images"]],
    )
    file.write_text('{"images": [\n}')
    with pytest.raises(ValueError, match=r"boxes\.json:2 is no JSON"):
        coco(str(file), str(folder), CLASSES, 4, 0, workers=0)


def test_crowds_are_not_trained_on_and_areas_come_from_the_file(tmp_path):
    file, folder = write_coco(tmp_path)
    content = json.loads(file.read_text())
    for row in content["annotations"]:
        row |= {"iscrowd": int(row["image_id"] == 1000), "area": 5}
    file.write_text(json.dumps(content))
    data = coco(str(file), str(folder), CLASSES, 4, 0, workers=0, val_share=0, test_share=0.1)
    of_image = {int(target["image_id"]): target for _, target in all_examples(data)}
    assert len(of_image[1000]["boxes"]) == 0
    assert of_image[998]["area"].tolist() == [5.0] * 3


# augmentation


@pytest.mark.parametrize(
    "options", [{"flip": 1.0}, {"scale": [0.5, 2.0]}, {"crop": True, "flip": 0.3}, {"scale": [0.3, 0.6], "flip": 0.5}]
)
def test_boxes_and_masks_stay_on_what_they_mark(tmp_path, options):
    data = read_voc(write_voc(tmp_path))
    augment = BoxesAndMasks(**options)
    images, targets = next(data.batches())
    for target, image in zip(targets, images, strict=True):
        target["masks"] = torch.stack([colour_mask(image, label) for label in target["labels"]])
    moved, marked = augment((images, targets), torch.Generator().manual_seed(3))
    checked = 0
    for image, target in zip(moved, marked, strict=True):
        assert len(target["boxes"]) == len(target["labels"])
        if "crop" not in options:
            assert target["masks"].shape[1:] == image.shape[1:]
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            left, top, right, bottom = (round(edge) for edge in box.tolist())
            if right - left > 3 and bottom - top > 3:
                inside = colour_mask(image, label)[top + 1 : bottom - 1, left + 1 : right - 1].float()
                assert inside.mean() > 0.95
                checked += 1
    assert checked


def colour_mask(image, label):
    return (image[0 if label == 1 else 2].int() - image[2 if label == 1 else 0].int()) > 60


def test_a_mask_for_each_pixel_moves_with_its_image_and_what_is_outside_is_ignored():
    images = torch.randint(1, 255, (3, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    masks = images[:, 0].long()
    moved, marked = BoxesAndMasks(flip=0.5)((images, masks), torch.Generator().manual_seed(1))
    assert torch.equal(moved[:, 0].long(), marked)
    assert not torch.equal(moved, images)
    small, marked = BoxesAndMasks(flip=0, scale=[0.5, 0.5])((images, masks), torch.Generator().manual_seed(1))
    assert small.shape == images.shape
    assert 0.5 < (marked == 255).float().mean() < 0.9
    assert (small[:, 0][marked == 255] == 127).all()
    with pytest.raises(ValueError, match=r"moves boxes and masks.*for labels give another augmentation"):
        BoxesAndMasks()((images, torch.zeros(3)), torch.Generator())
    with pytest.raises(ValueError, match="crop=true cuts around boxes"):
        BoxesAndMasks(crop=True)((images, masks), torch.Generator())


def test_loader_workers_augment_the_same_in_any_number_and_from_any_position(tmp_path):
    root, augment = write_voc(tmp_path), BoxesAndMasks(scale=[0.5, 2.0], color=0.5)
    here, there = (read_voc(root, workers=count).augmented_by(augment.augment_example) for count in (0, 2))
    batches = [batch for _, batch in zip(range(4), here.batches(), strict=False)]
    for after in (0, 3):
        images, targets = next(there.batches(after))
        assert all(map(torch.equal, images, batches[after][0]))
        assert all(
            torch.equal(one["boxes"], other["boxes"]) for one, other in zip(targets, batches[after][1], strict=True)
        )
    plain = next(here.plain())[0]
    assert all(map(torch.equal, plain, next(read_voc(root).batches())[0])), "scoring sees no augmentation"
    assert not all(map(torch.equal, plain, batches[0][0]))


# models and task


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_micro_batches_and_shards_have_the_gradient_of_the_whole_batch(parts):
    torch.manual_seed(0)
    model = small_detector(2).double().train()
    task, batch = Detection(CLASSES), random_batch([2, 0, 3, 1, 1])
    assert_parts_add_up(task, model, batch, split_batch(task, batch, -(-5 // parts)))
    shards = [local_shard(task, batch, rank, 2) for rank in range(2)]
    assert_parts_add_up(task, model, batch, [(shard.data, shard.weight / 2) for shard in shards])


def test_labels_that_are_no_classes_are_refused():
    task, (images, targets) = Detection(CLASSES), random_batch([2])
    for wrong in (0, 3):
        targets[0]["labels"] = torch.tensor([1, wrong])
        with pytest.raises(ValueError, match="count from 1, as 0 is the background, to 2"):
            task.loss(small_detector(2), (images, targets))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_named_weights_give_torchvisions_outputs_and_a_new_head_for_other_classes(tmp_path, monkeypatch, name):
    from torchvision import models

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    source = models.get_model(name, weights=None, weights_backbone=None, num_classes=91)
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    url = models.get_model_weights(name).COCO_V1.url
    (tmp_path / "checkpoints").mkdir()
    torch.save(source.state_dict(), tmp_path / "checkpoints" / url.rsplit("/", 1)[-1])
    theirs, ours = models.get_model(name, weights="COCO_V1").eval(), detector(name, 90, weights="DEFAULT").eval()
    assert_same_boxes(theirs, ours, torch.rand(3, 60, 80))
    few = detector(name, 2, weights="COCO_V1")
    new = origin_of(few).new
    assert new
    assert all("classification_head" in key or "box_predictor" in key for key in new)
    with pytest.raises(ValueError, match=f"{name} has no weights 'IMAGENET'.*DEFAULT, COCO_V1"):
        detector(name, 2, weights="IMAGENET")


def assert_same_boxes(theirs, ours, image) -> None:
    with torch.no_grad():
        (expected,), (found,) = theirs([image]), ours([image])
    assert len(found["boxes"]) == len(expected["boxes"])
    torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-3, atol=0.05)
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_weights_that_were_trained_without_an_epsilon_are_read_so(tmp_path, monkeypatch):
    from torchvision import models

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    source = models.get_model("retinanet_resnet50_fpn", weights=None, weights_backbone=None, num_classes=91)
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    source.backbone.body.bn1.running_var.fill_(1e-4)  # where an eps of 1e-5 tells
    url = models.get_model_weights("retinanet_resnet50_fpn").COCO_V1.url
    (tmp_path / "checkpoints").mkdir()
    torch.save(source.state_dict(), tmp_path / "checkpoints" / url.rsplit("/", 1)[-1])
    theirs = models.get_model("retinanet_resnet50_fpn", weights="COCO_V1")
    ours = detector("retinanet_resnet50_fpn", 90, weights="COCO_V1")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(theirs.backbone(image).values(), ours.eval().backbone(image).values(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "builder"),
    [("ssd300_vgg16", "vgg16"), ("fasterrcnn_mobilenet_v3_large_320_fpn", "mobilenet_v3_large")],
)
def test_a_backbone_starts_from_a_classification_models_file(tmp_path, monkeypatch, name, builder):
    from torchvision import models

    if builder == "vgg16":  # drawing its 138 million parameters takes longer than all else
        for init in ("normal_", "kaiming_normal_", "kaiming_uniform_"):
            monkeypatch.setattr(f"torch.nn.init.{init}", lambda tensor, *_, **__: tensor)
    source = models.get_model(builder, weights=None, num_classes=3)
    for number, parameter in enumerate(source.features.parameters()):
        torch.nn.init.constant_(parameter, number + 0.5)
    torch.save(source.state_dict(), tmp_path / "source.pt")
    model = detector(name, 2, weights_backbone=str(tmp_path / "source.pt"))
    given = {id(p): p for p in source.features.parameters() if p.dim() == 4}
    loaded = [p for p in model.backbone.parameters() if p.dim() == 4]
    found = sum(any(p.shape == q.shape and torch.equal(p, q) for q in loaded) for p in given.values())
    assert found == len(given)
    norms = [m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(isinstance(m, KeptBatchNorm2d) for m in norms) or name.startswith("ssd")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="does not fit the backbone"):
        detector(name, 2, weights_backbone=str(tmp_path / "other.pt"))


def test_kept_statistics_do_not_move_and_have_the_usual_state():
    layer, usual = KeptBatchNorm2d(3), torch.nn.BatchNorm2d(3)
    assert layer.state_dict().keys() == usual.state_dict().keys()
    layer.train()
    x = torch.randn(4, 3, 5, 5, requires_grad=True) + 7
    assert torch.equal(layer(x), usual.eval()(x))
    assert layer.running_mean.abs().max() == 0
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.slow
def test_the_detr_family_has_the_interface_of_torchvisions_detectors(tmp_path):
    pytest.importorskip("transformers")
    from lab.models.huggingface import huggingface_model

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = {**sizes, "image_size": [40, 60], "num_detection_tokens": 5}
    model = huggingface_model("yolos", 2, None, config=config, image_size=[40, 60])
    images, targets = random_batch([2, 0])
    images = [image.float() for image in images]
    targets = [{**target, "boxes": target["boxes"].float()} for target in targets]
    task = Detection(CLASSES)
    task.loss(model.train(), (images, targets)).backward()
    scores = task.score(model.eval(), [(images, targets)])
    assert 0 <= scores["map"] <= 1
    for name, content in model.files.items():
        (tmp_path / name).write_bytes(content)
    again = huggingface_model(str(tmp_path), 2, None, head="object_detection")
    assert dict(again.processor.size) == dict(model.processor.size)
    with pytest.raises(ValueError, match="bert detects no objects"):
        huggingface_model("bert", 2, None, head="object_detection")


def test_right_outputs_of_a_detr_are_the_boxes_that_it_was_given():
    pytest.importorskip("transformers")
    from types import SimpleNamespace

    from lab.models.detr import image_processor, relative_target

    images, targets = random_batch([3])
    processor = image_processor("detr", None, [40, 60])
    given = relative_target(targets[0], images[0])
    logits = torch.nn.functional.one_hot(given["class_labels"], 3).float() * 20
    outputs = SimpleNamespace(logits=logits[None], pred_boxes=given["boxes"][None])
    (found,) = processor.post_process_object_detection(outputs, 0.5, target_sizes=[images[0].shape[1:]])
    torch.testing.assert_close(found["boxes"], targets[0]["boxes"], check_dtype=False)
    assert torch.equal(found["labels"] + 1, targets[0]["labels"])


# commands


def test_a_detector_trains_is_scored_predicts_and_draws(lab, tmp_path):
    write_voc(tmp_path / "squares")
    done = lab("train", *SQUARES, "steps=6", "data.workers=0", "augment=boxes_and_masks", "hydra.run.dir=run")
    assert done.code == 0, done.err
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    assert {"test/map", "test/map50", "test/map75", "test/ar100", "gap/map"} <= results.keys()
    rows = json.loads((run / "test_detections.json").read_text())
    assert {row["image_id"] for row in rows} <= {11, 12}
    again = json.loads(lab("eval", "run", "--json").out)
    assert again["test/map"] == pytest.approx(results["test/map"], abs=1e-6)
    photos = tmp_path / "squares" / "JPEGImages"
    (photos.parent / "Annotations").rename(tmp_path / "elsewhere")  # predicting needs none of the data
    told = lab("predict", "run", str(photos / "000.png"), str(photos), "--draw", "drawn", "--json")
    assert told.code == 0, told.err
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert len(lines) == 13
    assert lines[0]["objects"] == lines[1]["objects"]
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert drawn[:3] == ["000-2.png", "000.png", "001.png"]
    with Image.open(tmp_path / "drawn" / "000.png") as picture:
        assert picture.size == Image.open(photos / "000.png").size


@pytest.mark.slow
def test_eight_images_are_learnt_by_heart(lab, tmp_path):
    write_voc(tmp_path / "squares", 12)
    done = lab(
        "train", *SQUARES, "data.batch_size=8", "overfit=true", "steps=100", "data.workers=0", "optimizer.lr=0.002",
        "schedule=cosine", "eval_every=100", "save_every=100",
    )  # fmt: skip
    assert done.code == 0, done.err
    results = json.loads((only_run(tmp_path) / "results.json").read_text())
    assert results["test/map50"] > 0.9


@pytest.mark.slow
def test_two_processes_detect_as_one_does(lab, tmp_path):
    write_voc(tmp_path / "squares")
    runs = {}
    for name, hardware in (("one", []), ("two", ["hardware=ddp", "hardware.device=cpu", "hardware.processes=2"])):
        run = ("steps=4", "log_every=1", "data.workers=0", "augment=boxes_and_masks", f"hydra.run.dir={name}")
        done = lab("train", *SQUARES, *hardware, *run)
        assert done.code == 0, done.err
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        runs[name] = [line["train/loss"] for line in lines if "train/loss" in line]
    assert runs["two"] == pytest.approx(runs["one"], rel=1e-4)


@pytest.mark.slow
def test_what_cannot_be_traced_is_not_estimated_and_faults_end_with_2(lab, tmp_path):
    write_voc(tmp_path / "squares")
    checked = lab("check", *SQUARES, "data.workers=0")
    assert checked.code == 0, checked.err
    assert "not estimated" in checked.out + checked.err
    (tmp_path / "squares" / "Annotations" / "002.xml").write_text("<a>\n<object>")
    broken = lab("train", *SQUARES, "data.workers=0")
    assert broken.code == 2
    assert "002.xml:2 is no XML" in broken.err


@pytest.mark.parametrize("layers", range(7))
@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "fcos_resnet50_fpn"])
def test_the_layers_of_a_backbone_are_torchvisions(name, layers):
    from torchvision import models
    from torchvision.models.detection.backbone_utils import _mobilenet_extractor, _resnet_fpn_extractor

    with torch.device("meta"):
        model = models.get_model(name, weights=None, weights_backbone=None, num_classes=3)
        if "mobilenet" in name:
            theirs = _mobilenet_extractor(models.mobilenet_v3_large(), True, layers)
        elif layers > 5:
            with pytest.raises(ValueError, match="trainable=6 is not from 0 to 5"):
                backbone_layers(model, layers)
            return
        else:
            theirs = _resnet_fpn_extractor(models.resnet50(), layers)
    groups = backbone_layers(model, layers, backbone_lr_scale=0.1)
    expected = {key for key, p in theirs.body.named_parameters() if p.requires_grad}
    assert {key for key, p in model.backbone.body.named_parameters() if p.requires_grad} - {
        "bn1.weight",
        "bn1.bias",
    } == (expected - {"bn1.weight", "bn1.bias"})
    assert all(p.requires_grad for key, p in model.named_parameters() if not key.startswith("backbone.body"))
    assert [group.get("lr_scale") for group in groups] == ([0.1, None] if layers else [None])


def test_a_model_without_such_a_backbone_is_refused():
    with pytest.raises(ValueError, match=r"RetinaNet has no backbone\.body.*finetune_strategy=last_blocks"):
        backbone_layers(small_detector(2))
