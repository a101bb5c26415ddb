"""Weights to start from: files, runs of ours, other libraries' models; what is taken over, and what is refused."""

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from lab.errors import CorruptCheckpoint
from lab.ledger.weights_file import find_weights
from lab.models.mlp import MLP
from lab.models.origin import Origin, new_parameters_of, origin_of
from lab.models.resnet_cifar import ResNet
from lab.models.state_files import read_weights
from lab.models.torchvision import torchvision_model
from lab.models.weights import draw_head, load_weights
from lab.record.checkpoints import load_checkpoint
from tests.conftest import only_run

VIT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 4}


def mlp(classes: int = 10, weights: str | None = None, hidden: int = 16) -> MLP:
    return MLP([1, 8, 8], classes, [hidden], weights=weights)


def saved(path: Path, model: nn.Module | None = None, wrapped=lambda state: state) -> str:
    torch.save(wrapped((model or mlp()).state_dict()), path)
    return str(path)


def origin(model: nn.Module) -> Origin:
    found = origin_of(model)
    assert found
    return found


def final_weights(run: str | Path) -> str:
    """The file that `weights=` with a run means."""
    found = find_weights(str(run), Path("outputs"))
    assert found
    return str(found.path)


def test_another_head_is_new_and_the_rest_is_taken_over(tmp_path):
    source = mlp(10)
    file = saved(tmp_path / "ten.pt", source)
    model = mlp(7, file)
    assert torch.equal(model.body[1].weight, source.body[1].weight)
    assert new_parameters_of(model) == {"head.weight", "head.bias"}
    weight, bias = origin(model).source_head
    assert torch.equal(weight, source.head.weight)
    assert torch.equal(bias, source.head.bias)
    assert origin(model).sha256 == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert str(origin(model)) == (
        f"2 of 4 tensors from {file}; new: head.weight, head.bias; left: head.weight, head.bias"
    )
    assert model.state_dict().keys() == source.state_dict().keys()


def test_a_head_of_the_same_size_is_drawn_anew_where_asked(tmp_path):
    source = mlp()
    model = mlp(10, saved(tmp_path / "w.pt", source))
    assert origin(model).matched == 4
    assert new_parameters_of(model) == set()
    draw_head(model)
    assert not torch.equal(model.head.weight, source.head.weight)
    assert torch.equal(origin(model).source_head[0], source.head.weight)
    assert new_parameters_of(model) == {"head.weight", "head.bias"}
    assert origin(model).matched == 2


def test_a_head_of_another_name_is_left_and_kept_as_the_sources(tmp_path):
    source = mlp()
    renamed = {key.replace("head", "fc"): value for key, value in source.state_dict().items()}
    torch.save(renamed, tmp_path / "w.pt")
    model = mlp(3, str(tmp_path / "w.pt"))
    assert origin(model).new == ("head.weight", "head.bias")
    assert origin(model).left == ("fc.weight", "fc.bias")
    assert torch.equal(origin(model).source_head[0], source.head.weight)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        lambda state: {"model": {f"_orig_mod.module.{key}": value for key, value in state.items()}},
        lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {"net": state, "acc": 93.0},
    ],
)
def test_the_usual_wrappings_are_understood(tmp_path, wrapped):
    source = mlp()
    model = mlp(10, saved(tmp_path / "w.pt", source, wrapped))
    assert torch.equal(model.body[1].weight, source.body[1].weight)
    assert origin(model).left == ()


def test_what_differs_outside_the_head_is_refused_by_name(tmp_path):
    file = saved(tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"of another shape: body\.1\.weight \(16, 64\), the model's is \(32, 64\)"):
        mlp(10, file, hidden=32)
    with pytest.raises(ValueError, match=r"unknown: body\.3\.weight, body\.3\.bias"):
        mlp(10, saved(tmp_path / "deep.pt", MLP([1, 8, 8], 10, [16, 16])))
    with pytest.raises(ValueError, match=r"nothing in it matches; it holds: head\.weight, head\.bias"):
        MLP([1, 8, 8], 7, [], weights=saved(tmp_path / "linear.pt", MLP([1, 8, 8], 10, [])))
    with pytest.raises(FileNotFoundError, match=r"DEFAULT.*MLP knows no weights by name"):
        mlp(10, "DEFAULT")


def test_published_weights_with_another_head_say_what_is_new(real_data):
    file = str(real_data / "weights" / "resnet56-4bfd9763.th")
    model = ResNet(9, [3, 32, 32], 4, weights=file)
    assert new_parameters_of(model) == {"linear.weight", "linear.bias"}
    assert origin(model).source_head[0].shape == (10, 64)
    assert origin(model).matched == 55 * 5  # a convolution's weight, a normalisation's weight, bias, mean and variance


def test_damaged_files_and_files_with_code_are_refused(tmp_path):
    file = Path(saved(tmp_path / "w.pt"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        mlp(10, str(file))
    at = len(whole) // 2
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(ValueError, match="damaged"):
        mlp(10, str(file))
    for nothing in (b"no weights at all", b"hello", b""):
        file.write_bytes(nothing)
        with pytest.raises(ValueError, match=r"w\.pt is no file of weights"):
            mlp(10, str(file))

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": mlp().state_dict(), "args": Code()}, file)
    with pytest.raises(ValueError, match="would run code"):
        mlp(10, str(file))
    file.write_bytes(pickle.dumps(Code()))
    with pytest.raises(ValueError, match="no file of weights"):
        mlp(10, str(file))
    assert not (tmp_path / "ran").exists()


def test_safetensors_are_read_and_checked(tmp_path):
    from safetensors.torch import save_file

    source = mlp()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    assert torch.equal(mlp(10, str(tmp_path / "w.safetensors")).head.weight, source.head.weight)
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="no sound safetensors file"):
        mlp(10, str(tmp_path / "w.safetensors"))


@pytest.mark.slow
def test_a_run_starts_from_another_runs_final_weights(lab, tmp_path):
    assert lab("train", "model=mlp", "steps=6", "eval_every=2", "log_every=2").code == 0
    run = only_run(tmp_path)
    best = run / "checkpoints" / "best.pt"
    started = lab("train", "model=mlp", "steps=2", f"weights={run.relative_to(tmp_path)}", "hydra.run.dir=a")
    assert started.code == 0, started.err
    assert "weights: 4 of 4 tensors from outputs/runs/" in started.err + started.out
    said = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert said["weights"]["matched"] == 4
    assert said["weights"]["sha256"] == hashlib.sha256(best.read_bytes()).hexdigest()
    assert mlp(10, final_weights(run), 128).state_dict().keys() == torch.load(best)["model"].keys()
    # the identity is that of what is loaded, by whatever way it is named
    shutil.copy(best, tmp_path / "elsewhere.pt")
    for n, weights in enumerate((f"weights={run.name[-8:]}", "weights=elsewhere.pt", "model.weights=elsewhere.pt")):
        assert lab("train", "model=mlp", "steps=2", weights, f"hydra.run.dir=b{n}").code == 0
        manifest = json.loads((tmp_path / f"b{n}" / "manifest.json").read_text())
        assert manifest["id"] == said["id"]
        assert manifest["weights"]["source"] == weights.partition("=")[2]
    for n, other in enumerate((["weights=elsewhere.pt", "new_head=true"], [])):
        assert lab("train", "model=mlp", "steps=2", *other, f"hydra.run.dir=c{n}").code == 0
        assert json.loads((tmp_path / f"c{n}" / "manifest.json").read_text())["id"] != said["id"]
    assert json.loads((tmp_path / "c0" / "manifest.json").read_text())["weights"]["new"] == ["head.weight", "head.bias"]
    assert json.loads((tmp_path / "c1" / "manifest.json").read_text())["weights"] is None
    # sealed weights that changed are not loaded, though they are sound
    state = torch.load(best)
    torch.save({**state, "step": 1}, best)
    assert "has changed since its run was done" in lab("train", "model=mlp", "steps=3", f"weights={run}").err


def test_weights_that_are_tied_are_taken_from_a_file_that_has_them_once(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.back = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.back.weight = self.embed.weight
            self.head = nn.Linear(9, 2)

    source, model = Tied(), Tied()
    safetensors.save_model(source, str(tmp_path / "tied.safetensors"))
    load_weights(model, str(tmp_path / "tied.safetensors"))
    assert torch.equal(model.embed.weight, source.embed.weight)
    assert model.back.weight is model.embed.weight
    assert origin(model).new == ()


def test_empty_weights_are_no_random_start(lab):
    ended = lab("train", "model=mlp", "weights=", "steps=1")
    assert ended.code == 2
    assert "weights= is empty; weights=null is a random start" in ended.err


def test_a_run_that_is_not_done_is_no_start(lab, tmp_path):
    assert lab("train", "model=mlp", "steps=4", "save_every=1", "time_limit=0.000001").code != 0
    run = only_run(tmp_path)
    refused = lab("train", "model=mlp", "steps=2", f"weights={run}")
    assert refused.code == 2
    assert "is interrupted, not done" in refused.err
    assert lab("train", "model=mlp", "steps=2", f"weights={run}/checkpoints/last.pt", "hydra.run.dir=a").code == 0


def test_an_average_that_was_scored_is_what_a_run_gives(lab, tmp_path):
    assert lab("train", "model=mlp", "steps=6", "final=last", "regularize=ema", "hydra.run.dir=run").code == 0
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt")
    (average,) = (part["average"] for part in state["run"]["regularize"].values())
    model = mlp(10, final_weights("run"), 128)
    assert torch.equal(model.head.weight, average["head.weight"])
    assert not torch.equal(model.head.weight, state["run"]["model"]["head.weight"])
    # the model, Adam's two moments and the average: what was scored is no second copy of that
    plain = sum(t.numel() * 4 for t in model.state_dict().values())
    assert (tmp_path / "run" / "checkpoints" / "last.pt").stat().st_size < 5 * plain


def test_a_run_with_lora_is_a_start_with_what_it_learned_in_the_weights(lab, tmp_path):
    assert lab("train", "model=mlp", "steps=6", "finetune_strategy=lora", "hydra.run.dir=run").code == 0
    state = torch.load(tmp_path / "run" / "checkpoints" / "best.pt")["model"]
    assert any("parametrizations" in key for key in state)
    model = mlp(10, final_weights("run"), 128)
    at = "body.1.parametrizations.weight"
    learned = state[f"{at}.0.scale"] * state[f"{at}.0.up"] @ state[f"{at}.0.down"]
    assert learned.abs().max() > 0
    assert torch.allclose(model.body[1].weight, state[f"{at}.original"] + learned)


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.body, self.head = nn.Linear(64, 16), nn.Linear(16, num_classes)

    def forward(self, x):
        return self.head(self.body(x.flatten(1)).relu())
"""


def test_a_model_that_takes_no_weights_gets_them_when_it_is_made(lab, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    folder = tmp_path / "conf" / "model"
    folder.mkdir(parents=True)
    (folder / "net.yaml").write_text("_target_: mine.Net\nnum_classes: ${data.num_classes}\n")
    assert lab("train", "model=net", "steps=4", "hydra.run.dir=run").code == 0
    for strategy, there in (("full", True), ("scratch", False)):
        ended = lab(
            "train", "model=net", "steps=2", "weights=run", f"finetune_strategy={strategy}", f"hydra.run.dir={strategy}"
        )
        assert ended.code == 0, ended.err
        said = json.loads((tmp_path / strategy / "manifest.json").read_text())["weights"]
        assert (said is not None) == there
    by_name = lab("train", "model=net", "steps=2", "weights=DEFAULT")
    assert by_name.code == 2
    assert "Net knows no weights by name" in by_name.err


def test_two_answers_to_what_to_start_from_are_refused(lab, tmp_path):
    saved(tmp_path / "a.pt", mlp(hidden=128))
    saved(tmp_path / "b.pt", mlp(hidden=128))
    refused = lab("train", "model=mlp", "steps=2", "weights=a.pt", "model.weights=b.pt")
    assert refused.code == 2
    assert "weights=a.pt, but model.weights=b.pt; give one of the two" in refused.err


def test_a_timm_models_weights_fit_other_classes_channels_and_sizes(tmp_path):
    pytest.importorskip("timm")
    from lab.models.timm import timm_model

    source = timm_model("vit_tiny_patch16_224", 10, [3, 64, 64])
    file = saved(tmp_path / "w.pt", source)
    model = timm_model("vit_tiny_patch16_224", 7, [1, 96, 96], weights=file, drop_path=0.1)
    assert new_parameters_of(model) == {"head.weight", "head.bias"}
    assert origin(model).source_head[0].shape == (10, 192)
    assert torch.allclose(model.patch_embed.proj.weight, source.patch_embed.proj.weight.sum(1, keepdim=True))
    assert model(torch.rand(2, 1, 96, 96)).shape == (2, 7)
    with pytest.raises(ValueError, match=r"vgg11 does not know the option: .*drop_path_rate"):
        timm_model("vgg11", 7, [3, 32, 32], drop_path=0.1)
    with pytest.raises(ValueError, match="did you mean 'resnet18'"):
        timm_model("resnet188", 7, [3, 32, 32])
    with pytest.raises(ValueError, match=r"resnet18 has no weights 'a9'.*DEFAULT, a1_in1k"):
        timm_model("resnet18", 7, [3, 32, 32], weights="a9")


def test_a_teachers_two_heads_are_both_new(tmp_path):
    pytest.importorskip("timm")
    from lab.models.timm import timm_model

    name = "deit_tiny_distilled_patch16_224"
    file = saved(tmp_path / "w.pt", timm_model(name, 10, [3, 32, 32]))
    model = timm_model(name, 7, [3, 32, 32], weights=file)
    assert new_parameters_of(model) == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_a_hugging_face_model_starts_from_a_folder_a_file_or_itself(tmp_path):
    pytest.importorskip("transformers")
    from lab.models.huggingface import huggingface_model

    source = huggingface_model("vit", 10, [1, 8, 8], config=VIT)
    assert source(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    source.model.save_pretrained(tmp_path / "folder")
    ours = saved(tmp_path / "w.pt", source)
    file = str(tmp_path / "folder" / "model.safetensors")
    for weights in (str(tmp_path / "folder"), file, ours):
        model = huggingface_model("vit", 7, [1, 8, 8], weights=weights, config=VIT)
        theirs = source.state_dict()
        head = {"model.classifier.weight", "model.classifier.bias"}
        assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items() if key not in head)
        assert new_parameters_of(model) == head
        assert torch.equal(origin(model).source_head[0], theirs["model.classifier.weight"])
        assert model.training
    # its own configuration, and images of another size
    model = huggingface_model(str(tmp_path / "folder"), 7, [1, 12, 12], weights="DEFAULT")
    assert model(torch.rand(2, 1, 12, 12)).shape == (2, 7)
    assert origin(model).sha256 == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    for layers, said in ((1, "2 blocks in vit.layers where the model has 1"), (3, "num_hidden_layers:2")):
        with pytest.raises(ValueError, match=said):
            huggingface_model("vit", 7, [1, 8, 8], weights=file, config={**VIT, "num_hidden_layers": layers})
    with pytest.raises(ValueError, match="no key 'hidden_sise'; did you mean 'hidden_size'"):
        huggingface_model("vit", 7, [1, 8, 8], config={"hidden_sise": 32})


def test_a_hugging_face_model_of_sequences_takes_dicts_and_a_language_models_body(tmp_path):
    transformers = pytest.importorskip("transformers")
    from lab.models.huggingface import huggingface_model

    small = {**VIT, "vocab_size": 100}
    del small["patch_size"]
    language = transformers.AutoModelForMaskedLM.from_config(transformers.AutoConfig.for_model("bert", **small))
    language.half().save_pretrained(tmp_path)
    model = huggingface_model("bert", 3, None, weights=str(tmp_path), config=small)
    tokens = {"input_ids": torch.randint(100, (2, 5)), "attention_mask": torch.ones(2, 5, dtype=torch.int64)}
    assert model(tokens).shape == (2, 3)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    new = {f"model.{name}" for name in ("classifier", "bert.pooler.dense")}
    assert new_parameters_of(model) == {f"{name}.{kind}" for name in new for kind in ("weight", "bias")}
    assert any("cls.predictions" in key for key in origin(model).left)


def test_names_that_are_not_here_say_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    with pytest.raises(ConnectionError, match=rf"resnet18-\w+\.pth .*place it in {tmp_path}"):
        torchvision_model("resnet18", 7, [3, 32, 32], weights="DEFAULT")
    pytest.importorskip("timm")
    from lab.models.timm import timm_model

    with pytest.raises(FileNotFoundError, match=r"model\.safetensors .*hf download timm/resnet18\.a2_in1k"):
        timm_model("resnet18", 7, [3, 32, 32], weights="a2_in1k")
    pytest.importorskip("transformers")
    from lab.models.huggingface import huggingface_model

    with pytest.raises(FileNotFoundError, match=r"safetensors .*models--nobody--no-vit"):
        huggingface_model("nobody/no-vit", 7, [3, 32, 32], weights="DEFAULT")


def no_network(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_torchvisions_weights_by_name_keep_the_head_that_they_had(tmp_path, monkeypatch):
    """From a file in torch's cache: what a download leaves there."""
    from torchvision.models import ResNet18_Weights, resnet18

    source = resnet18()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    url = ResNet18_Weights.DEFAULT.url
    file = tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[-1]
    saved(file, source)
    model = torchvision_model("resnet18", 7, [1, 32, 32], weights="DEFAULT")
    assert torch.equal(origin(model).source_head[0], source.fc.weight)
    assert new_parameters_of(model) == {"fc.weight", "fc.bias"}
    assert origin(model).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert origin(model).matched == 100
    whole = torchvision_model("resnet18", 1000, [3, 32, 32], weights="DEFAULT")
    assert torch.equal(whole.fc.weight, source.fc.weight)

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({**source.state_dict(), "fc.bias": Code()}, file)
    with pytest.raises(ValueError, match="would run code"):
        torchvision_model("resnet18", 7, [1, 32, 32], weights="DEFAULT")
    assert not (tmp_path / "ran").exists()


def test_what_a_strategy_leaves_at_a_random_start_is_said(lab, tmp_path):
    torch.save(MLP([1, 8, 8], 7, hidden=[16]).state_dict(), tmp_path / "seven.pt")
    common = ("train", "model=mlp", "model.hidden=[16]", "weights=seven.pt", "steps=1")
    said = lab(*common, "finetune_strategy=only", "finetune_strategy.match=[body.*]").err
    assert "  frozen at a random start: head.weight, head.bias\n" in said
    assert "frozen at a random start" not in lab(*common).err


def test_archives_that_unpack_to_more_than_they_are_are_not_unpacked(tmp_path):
    packed, overlapping = tmp_path / "packed.pt", tmp_path / "overlapping.pt"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    torch.save({"w": torch.ones(1000)}, overlapping)
    content = overlapping.read_bytes()
    size = (4000).to_bytes(4, "little")
    overlapping.write_bytes(content.replace(size + size, (4_000_000).to_bytes(4, "little") * 2))
    assert packed.stat().st_size < 100_000
    for file, message in ((packed, "archive/data.pkl is compressed"), (overlapping, "larger than the file")):
        with pytest.raises(ValueError, match=message):
            read_weights([file])
        with pytest.raises(CorruptCheckpoint, match=message):
            load_checkpoint(file)
