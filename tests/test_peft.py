"""Adapters of LoRA and DoRA as folders of Hugging Face's peft."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab.assembly.cost_estimate import estimate_cost
from lab.finetune.dora import dora
from lab.finetune.lora import lora
from lab.finetune.peft import load_adapter, save_adapter
from lab.hardware import Hardware
from lab.models.low_rank import merge_low_rank
from lab.models.mlp import MLP
from lab.models.resnet_cifar import ResNet
from tests.adapted_models import IMAGES, both, make_model, train_a_little
from tests.conftest import only_run

Strategy = Callable[..., list[dict]]


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
    assert estimate_cost(
        make, SimpleNamespace(loss=lambda model, x: model(x).mean()), IMAGES, Hardware("cpu")
    ).flops  # of tensors without values
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
    model = make_model(name)
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
