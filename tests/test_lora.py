"""LoRA and DoRA on any model: what they train, what they compute, and what peft makes of their adapters."""

import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.build.cost_estimate import estimate_cost
from lab.data.digits import digits
from lab.finetune.dora import dora
from lab.finetune.lora import lora
from lab.finetune.peft import load_adapter, save_adapter
from lab.hardware import Hardware
from lab.models.low_rank import merge_low_rank
from lab.models.mlp import MLP
from lab.models.resnet_cifar import ResNet
from lab.models.torchvision import torchvision_model
from lab.optim.schedules import cosine
from lab.record.checkpoints import load_checkpoint, save_checkpoint
from lab.regularize.chain import Chain
from lab.regularize.ema import EMA
from lab.run import Run, cadence
from lab.tasks.classification import Classification
from lab.train.loop import train
from lab.train.scoring import set_training_mode
from lab.train.state import restore_snapshot, take_snapshot
from tests.conftest import only_run

Strategy = Callable[..., list[dict]]


class Convolutions(nn.Module):
    """Images (B, 3, 8, 8) to logits (B, 4) by convolutions of one, two and three dimensions, one in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped, self.volume = nn.Conv2d(8, 8, 3, groups=2), nn.Conv3d(1, 2, (8, 3, 3))
        self.sequence, self.norm, self.head = nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.volume(self.grouped(F.relu(self.depthwise(self.stem(x)))).unsqueeze(1))
        return self.head(self.norm(self.sequence(x.flatten(2))).mean(2))


class Attention(nn.Module):
    """Images (B, 3, 8, 8) as 64 tokens, attending to themselves, and to a memory of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.embed, self.cross = nn.Linear(3, 8), nn.MultiheadAttention(8, 2, kdim=3, vdim=3, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.head(self.cross(self.encoder(self.embed(tokens)), tokens, tokens)[0].mean(1))


class Recurrent(nn.Module):
    """The first row of images (B, 3, 8, 8) as 8 steps, by every recurrent layer of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.projected = nn.LSTM(3, 8, 2, batch_first=True, bidirectional=True, proj_size=4)
        self.lstm, self.gru, self.rnn = (kind(8, 8, batch_first=True) for kind in (nn.LSTM, nn.GRU, nn.RNN))
        self.cell, self.head = nn.GRUCell(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        states = x[:, :, 0].transpose(1, 2)
        for layer in (self.projected, self.lstm, self.gru, self.rnn):
            states = layer(states)[0]
        return self.head(self.cell(states[:, -1], states[:, 0]))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": Convolutions,
    "attention": Attention,
    "recurrent": Recurrent,
    "mlp": lambda: MLP([3, 8, 8], 4, [16]),
}
IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
both = pytest.mark.parametrize("strategy", [lora, dora])
every_model = pytest.mark.parametrize("name", MODELS)


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def train_a_little(groups: list[dict]) -> list[dict]:
    """Something like it: every parameter in the groups is another."""
    with torch.no_grad():
        for group in groups:
            for parameter in group["params"]:
                parameter += 0.1 * torch.randn_like(parameter)
    return groups


def count(groups: list[dict]) -> dict[str, int]:
    return {group["name"]: sum(p.numel() for p in group["params"]) for group in groups}


def counted(named: Any) -> int:
    return sum(p.numel() for p in named)


@both
@every_model
def test_a_model_computes_the_same_bits_until_it_is_trained(strategy, name):
    model = made(name)
    before = model(IMAGES)
    strategy(model, rank=2)
    assert torch.equal(model(IMAGES), before)


@both
@every_model
def test_every_tensor_that_is_trained_has_a_part_in_the_output_and_no_other_has_a_gradient(strategy, name):
    model = made(name)
    whole = {key for key, p in model.named_parameters() if p.dim() > 1 and not key.startswith("head")}
    groups = train_a_little(strategy(model, rank=2))
    model(IMAGES).square().sum().backward()
    trained = {id(p) for group in groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        assert (id(parameter) in trained) == parameter.requires_grad
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, key
    adapted = {key.replace("parametrizations.", "") for key in model.state_dict() if key.endswith(".original")}
    assert {key.removesuffix(".original") for key in adapted} == whole


@both
@every_model
def test_a_copy_a_move_and_a_reload_compute_the_same(strategy, name):
    model = made(name)
    groups = train_a_little(strategy(model, rank=2))
    after = model(IMAGES)
    assert not torch.allclose(after, made(name)(IMAGES), atol=1e-3)
    again = made(name)
    strategy(again, rank=2)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(deepcopy(model)(IMAGES), again(IMAGES))
        assert torch.allclose(again(IMAGES), after, atol=1e-6)  # attention has a kernel of its own without gradients
        average = EMA(model, decay=0.0)
        train_a_little(groups)
        average.step(model)
        assert torch.allclose(average.scored(model)(IMAGES), model(IMAGES), atol=1e-6)
        assert torch.allclose(deepcopy(model).double()(IMAGES.double()).float(), model(IMAGES), atol=1e-5)


@both
@every_model
def test_merged_weights_are_those_of_a_plain_model_that_computes_the_same(strategy, name):
    model, plain = made(name), made(name)
    train_a_little(strategy(model, rank=2))
    state = merge_low_rank(model.state_dict())
    assert state.keys() == plain.state_dict().keys()
    plain.load_state_dict(state)
    assert torch.allclose(plain(IMAGES), model(IMAGES), atol=1e-6)
    assert merge_low_rank(state) == state


@both
@every_model
def test_a_functional_call_and_mixed_precision_use_the_adapter(strategy, name):
    model = made(name)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    before = model(IMAGES)
    train_a_little([group for group in strategy(model, rank=2) if group["name"] != "head"])
    zeros = {key: torch.zeros_like(p) for key, p in model.named_parameters() if key.endswith(".up")}
    if strategy is lora:
        assert torch.equal(torch.func.functional_call(model, zeros, IMAGES), before)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(IMAGES)
    assert torch.allclose(rounded.float(), model(IMAGES), atol=0.03)
    rounded.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in start.items() if key in own)


def test_roberta_base_has_as_many_parameters_as_the_paper_says():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.RobertaForSequenceClassification(transformers.RobertaConfig())
    groups = lora(model, rank=8, targets=["*.query", "*.value"])
    assert count(groups)["lora"] == 12 * 2 * 8 * (768 + 768) == 294_912  # table 2: 0.3 M, the head not counted
    assert count(groups)["head"] == counted(model.classifier.parameters())


def test_a_vision_transformer_has_a_rank_for_every_weight():
    width, hidden, patch = 768, 3072, 3 * 16 * 16
    ours = [(patch, width)] + 12 * [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]
    counts = {}
    for strategy in (lora, dora):
        with torch.device("meta"):
            model = torchvision_model("vit_b_16", 10, [3, 224, 224])
            counts[strategy] = count(strategy(model, rank=4))
    assert counts[lora] == {"lora": sum(4 * (a + b) for a, b in ours), "head": 10 * width + 10}
    assert counts[dora] == {**counts[lora], "magnitude": sum(b for _, b in ours)}


def test_what_reads_a_weight_past_its_module_finds_the_changed_one():
    """As shifted windows do: torchvision's Swin hands its linear layers' weights to a function."""
    torch.manual_seed(0)
    model = torchvision_model("swin_t", 4, [3, 32, 32])
    groups = lora(model, rank=2, targets=["features.1.0.attn.qkv", "features.1.0.attn.proj"])
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    ups = [p for name, p in model.named_parameters() if name.endswith(".up")]
    assert len(ups) == 2
    assert all(p.grad is not None and p.grad.any() for p in ups)
    assert count(groups)["lora"] == 2 * (96 + 3 * 96) + 2 * (96 + 96)


def test_the_start_and_the_keys_are_those_of_the_authors_code():
    torch.manual_seed(0)
    model = ResNet(3, [3, 32, 32], 10)
    lora(model, rank=8, alpha=16)
    keys = [key for key in model.state_dict() if key.startswith("layer1.0.conv1.")]
    assert keys == [
        f"layer1.0.conv1.parametrizations.weight.{part}" for part in ("original", "0.down", "0.up", "0.scale")
    ]
    state = model.state_dict()
    down, up, scale = (state[key] for key in keys[1:])
    assert (down.shape, up.shape) == ((8, 16 * 9), (16, 8))
    assert scale == 16 / 8
    assert not up.any()
    assert down.abs().max() <= 1 / math.sqrt(16 * 9) < 1.1 * down.abs().max()
    embedding = nn.Sequential(nn.Embedding(50, 6), nn.Linear(6, 2))
    lora(embedding, rank=3, targets=["0"])
    state = embedding.state_dict()
    down, up = (state[f"0.parametrizations.weight.0.{part}"] for part in ("down", "up"))
    assert (down.shape, up.shape) == ((3, 50), (6, 3))
    assert not down.any()
    assert up.std() > 0.5


def test_targets_are_patterns_over_what_can_be_adapted():
    model = ResNet(3, [3, 32, 32], 10)
    lora(model, rank=2, targets=["layer3.*"])
    adapted = {key.split(".parametrizations")[0] for key in model.state_dict() if "parametrizations" in key}
    assert adapted == {f"layer3.{block}.conv{n}" for block in range(3) for n in (1, 2)}
    with pytest.raises(ValueError, match=r"layer9.*module that LoRA can adapt.*conv1, layer1\.0\.conv1"):
        lora(ResNet(3, [3, 32, 32], 10), targets=["layer9.*"])
    with pytest.raises(ValueError, match="rank 0 is not at least 1"):
        lora(ResNet(3, [3, 32, 32], 10), rank=0)
    with pytest.raises(ValueError, match=r"alpha 0\.0 is not positive"):
        lora(ResNet(3, [3, 32, 32], 10), alpha=0.0)
    with pytest.raises(ValueError, match=r"targets=\[\] names nothing to adapt"):
        lora(ResNet(3, [3, 32, 32], 10), targets=[])
    with pytest.raises(ValueError, match=r"no module before its head 'head'"):
        lora(MLP([3, 8, 8], 4, []), head="head")
    text = nn.Sequential(nn.Embedding(50, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    assert count(lora(text, rank=1)) == {"lora": 12, "head": 14}  # embeddings are adapted by name alone
    text = nn.Sequential(nn.Embedding(50, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    assert count(lora(text, rank=1, targets=["*"], train_head=False)) == {"lora": 56 + 12 + 8}


def test_frozen_normalisations_keep_their_statistics():
    model = made("convolutions")
    train_a_little(lora(model, rank=2))
    before = model.norm.running_mean.clone()
    set_training_mode(model)
    model(IMAGES)
    assert torch.equal(model.norm.running_mean, before)


def test_dora_is_equation_5_with_the_norm_held_constant():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3))
    start, x = model[0].weight.detach().clone(), torch.rand(7, 5)
    train_a_little(dora(model, rank=2, alpha=4))
    state = {key: p for key, p in model.named_parameters() if key.startswith("0.parametrizations")}
    _, down, up, magnitude = state.values()
    (x @ model[0].weight.T).square().sum().backward()
    found = [p.grad.clone() for p in (down, up, magnitude)]
    for p in (down, up, magnitude):
        p.grad = None
    v = start + 4 / 2 * up @ down
    by_hand = magnitude[:, None] * v / v.norm(dim=1, keepdim=True).detach()
    assert torch.allclose(model[0].weight, by_hand)
    (x @ by_hand.T).square().sum().backward()
    assert all(torch.allclose(a, p.grad, rtol=1e-4) for a, p in zip(found, (down, up, magnitude), strict=True))


def test_dora_leaves_a_row_of_zeros_as_it_is():
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[1] = 0
    dora(model, rank=2)
    model(torch.rand(2, 5)).sum().backward()
    assert not model[0].weight[1].any()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@both
def test_a_cnn_stays_in_channels_last(strategy):
    model = made("convolutions")
    before = model(IMAGES)
    strategy(model, rank=2)
    Hardware("cpu", channels_last=True).place(model)
    assert model.grouped.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(model(IMAGES.contiguous(memory_format=torch.channels_last)), before, atol=1e-6)


@pytest.mark.slow
@both
def test_a_compiled_model_is_the_same(strategy):
    model = made("attention")
    train_a_little(strategy(model, rank=2))
    after = model(IMAGES)
    compiled = torch.compile(model, backend="aot_eager")(IMAGES)
    assert torch.allclose(compiled, after, atol=1e-6)
    compiled.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@both
@every_model
def test_the_cost_of_a_step_can_be_found_without_taking_it(strategy, name):
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = MODELS[name]()
        return model, torch.optim.AdamW(strategy(model, rank=2))

    model, _ = make()
    found = estimate_cost(make, lambda model, x: model(x).square().mean(), IMAGES)
    assert found.parameters == counted(model.parameters())
    assert found.trainable == counted(p for p in model.parameters() if p.requires_grad)
    assert (found.flops is None) == (name == "recurrent")  # as without an adapter: the LSTM's kernel is fused


@both
def test_a_resumed_run_ends_in_the_same_bits(strategy, tmp_path):
    def make() -> Run:
        torch.manual_seed(0)
        data, model = digits(batch_size=64, seed=0), MLP([1, 8, 8], 10, hidden=[32])
        groups = strategy(model, rank=2)
        optimizer = torch.optim.AdamW(groups, lr=0.01)
        pace = cadence(12, data.steps_per_epoch)
        say = Chain([EMA(model, decay=0.9)])
        parts = {"regularize": say, "hardware": Hardware("cpu")}
        return Run(model, Classification(10), data, optimizer, cosine(optimizer, 12), pace, **parts)

    unbroken, broken, resumed = make(), make(), make()
    list(train(unbroken))
    for step in train(broken):
        if step.n == 5:
            save_checkpoint(tmp_path / "state.pt", take_snapshot(broken))
            break
    restore_snapshot(resumed, load_checkpoint(tmp_path / "state.pt"))
    list(train(resumed, after=5))
    for key, value in unbroken.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    frozen = [key for key in unbroken.model.state_dict() if key.endswith("original")]
    start = make().model.state_dict()
    assert frozen
    assert all(torch.equal(start[key], unbroken.model.state_dict()[key]) for key in frozen)


class Logits(nn.Module):
    """A transformers model as one from tokens (B, T) to logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens).logits


def language_model(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "bert":
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        config = transformers.BertConfig(vocab_size=50, num_labels=3, **sizes)
        return transformers.BertForSequenceClassification(config).eval()
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, num_labels=3, pad_token_id=0, bos_token_id=1, eos_token_id=1
    )
    return transformers.GPT2ForSequenceClassification(config).eval()


@both
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("targets", [None, ["*"]])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_peft_reads_our_adapter_and_we_read_peft_s(kind, targets, strategy, tmp_path):
    peft = pytest.importorskip("peft")
    options = {"rank": 4, "alpha": 8.0, "targets": targets}
    model = Logits(language_model(kind))
    train_a_little(strategy(model, **options))
    tokens = torch.randint(1, 50, (3, 7))
    save_adapter(model, tmp_path / "ours", base="someone/tiny")
    theirs = peft.PeftModel.from_pretrained(language_model(kind), tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.allclose(theirs(input_ids=tokens).logits, model(tokens), atol=1e-6)
        theirs.save_pretrained(tmp_path / "theirs")
        again = Logits(language_model(kind))
        strategy(again, **options, adapter=str(tmp_path / "theirs"))
        assert torch.equal(again(tokens), model(tokens))
        plain = Logits(language_model(kind))
        plain.load_state_dict(merge_low_rank(model.state_dict()))
        assert torch.allclose(plain(tokens), model(tokens), atol=1e-6)
    assert (
        json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/tiny"
    )


@both
@pytest.mark.filterwarnings("ignore")
def test_peft_reads_the_adapter_of_a_convolutional_network(strategy, tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = ResNet(3, [3, 32, 32], 10).eval()
    plain, images = deepcopy(model), torch.rand(2, 3, 32, 32)
    train_a_little(strategy(model, rank=2))
    save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(theirs(images), model(images), atol=1e-4)


def test_an_adapter_that_does_not_fit_says_how(tmp_path):
    pytest.importorskip("safetensors")
    model = MLP([3, 8, 8], 4, [16, 16])
    lora(model, rank=2, alpha=4)
    save_adapter(model, tmp_path)

    def start(strategy: Strategy, **options: Any) -> None:
        strategy(MLP([3, 8, 8], 4, [16, 16]), adapter=str(tmp_path), **options)

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        started = MLP([3, 8, 8], 4, [16, 16])
        return started, torch.optim.SGD(lora(started, rank=2, alpha=4, adapter=str(tmp_path)))

    start(lora, rank=2, alpha=4)
    assert estimate_cost(make, lambda model, x: model(x).mean(), IMAGES).flops  # of tensors without values
    with pytest.raises(ValueError, match=r"finetune_strategy\.rank=2 finetune_strategy\.alpha=4"):
        start(lora, rank=4)
    with pytest.raises(ValueError, match="finetune_strategy=lora"):
        start(dora, rank=2, alpha=4)
    with pytest.raises(ValueError, match=r"unknown: base_model\.model\.body\.3\.lora_A\.weight.*Its targets"):
        start(lora, rank=2, alpha=4, targets=["body.1"])
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        load_adapter(model, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no adapter"):
        save_adapter(MLP([3, 8, 8], 4, [16, 16]), tmp_path)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("recurrent", r"projected\.weight_ih_l0 \(a recurrent layer\)"),
        ("attention", r"encoder\.self_attn\.out_proj\.weight \(torch's MultiheadAttention"),
        ("convolutions", r"depthwise\.weight \(a convolution with groups"),
    ],
)
def test_what_peft_cannot_express_is_named(name, named, tmp_path):
    model = made(name)
    lora(model, rank=2)
    with pytest.raises(ValueError, match=named):
        save_adapter(model, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_s_adapter_is_written_and_starts_another(lab, tmp_path):
    pytest.importorskip("safetensors")
    small = ["model=mlp", "data=digits", "steps=4", "finetune_strategy.rank=2"]
    assert lab("train", *small, "finetune_strategy=lora", "regularize=ema").code == 0
    run = only_run(tmp_path)
    written = lab("adapter", str(run), "written")
    assert written.code == 0, written.err
    settings = json.loads(Path("written", "adapter_config.json").read_text())
    assert settings["r"] == 2
    assert settings["modules_to_save"]
    second = ["hydra.run.dir=second", "finetune_strategy.adapter=written"]
    ended = lab("train", *small, "finetune_strategy=lora", *second)
    assert ended.code == 0, ended.err
    refused = lab("adapter", str(tmp_path / "nothing"), "written")
    assert refused.code == 2
    assert "no run" in refused.err
    assert lab("train", "model=mlp", "data=digits", "steps=2", "hydra.run.dir=plain").code == 0
    refused = lab("adapter", "plain", "written")
    assert refused.code == 2
    assert "has no adapter" in refused.err


def test_an_adapter_names_the_model_that_its_weights_are_those_of(lab, tmp_path):
    pytest.importorskip("safetensors")
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vit = transformers.AutoConfig.for_model("vit", **small, image_size=8, patch_size=4, num_channels=1)
    transformers.AutoModelForImageClassification.from_config(vit).save_pretrained(tmp_path / "vit")
    named = ["model=huggingface", "model.name=vit/", "weights=DEFAULT", "data=digits", "steps=1"]
    ended = lab("train", *named, "finetune_strategy=lora", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    assert lab("adapter", "run", "written").code == 0
    assert json.loads(Path("written", "adapter_config.json").read_text())["base_model_name_or_path"] == "vit/"
