"""QLoRA, 8-bit AdamW, and models exported for transformers."""

import pytest
import torch
from torch import nn

from lab.finetune.qlora import qlora
from lab.models.export import save_huggingface
from lab.models.gpt import GPT
from lab.models.huggingface import huggingface_model
from lab.models.quantized import QuantizedLinear, merge_quantized
from lab.models.text import TextTransformer
from tests.test_language import SMALL, TINY, make_corpus

LLAMA = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}


def quantized_weights(model):
    return {
        name: buffer.clone() for name, buffer in model.named_buffers() if name.endswith(("packed", "scales", "offset"))
    }


def test_the_base_stays_and_the_change_learns():
    torch.manual_seed(0)
    model = GPT(50, 16, width=32, heads=2, layers=1)
    ids = torch.randint(50, (2, 9))
    before = model({"input_ids": ids}).detach()
    groups = qlora(model, rank=4)
    assert [group["name"] for group in groups] == ["lora", "head"]
    kept = quantized_weights(model)
    assert len([name for name in kept if name.endswith("packed")]) == 6
    start = model({"input_ids": ids})
    assert (start - before).abs().mean() < 0.2
    assert not torch.equal(start, before)
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    for _ in range(20):
        loss = nn.functional.cross_entropy(model({"input_ids": ids[:, :-1]}).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = quantized_weights(model)
    assert all(torch.equal(after[name], kept[name]) for name in kept)
    assert loss < nn.functional.cross_entropy(start[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize("shape", [(48, 32), (20, 64), (64, 96)])
def test_a_quantised_layer_is_near_the_plain_one_and_equals_its_merge(shape):
    torch.manual_seed(0)
    plain = nn.Linear(*shape)
    layer = QuantizedLinear(plain, rank=2, alpha=4.0)
    nn.init.normal_(layer.change.up, std=0.1)
    error = (layer.dequantize() - plain.weight).abs().mean() / plain.weight.abs().mean()
    assert error < 0.11  # NF4 on 64 uniform weights a block
    x = torch.randn(5, shape[0], requires_grad=True)
    torch.testing.assert_close(layer(x), layer.merged()(x), rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(one(x).square().sum(), x)[0] for one in (layer, layer.merged())]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
    again = QuantizedLinear(nn.Linear(*shape), rank=2, alpha=4.0)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))


def test_code_that_reads_the_weight_gets_the_changed_one():
    """torch's TransformerEncoderLayer passes weights to one kernel in evaluation."""
    torch.manual_seed(0)
    model = TextTransformer(50, 3, max_length=20, width=32, heads=2).eval()
    qlora(model)
    for name, parameter in model.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(parameter, std=0.1)
    inputs = {"input_ids": torch.randint(4, 50, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.bool)}
    with torch.no_grad():
        fast = model(inputs)
    torch.testing.assert_close(fast, model(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", ["full", "lora", "dora", "qlora"])
def test_an_exported_model_gives_the_same_logits_in_transformers(tmp_path, strategy):
    from importlib import import_module

    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = {**LLAMA, "num_key_value_heads": 1, "max_position_embeddings": 32}
    model = huggingface_model("llama", None, None, config=config, head="causal", vocab_size=60)
    getattr(import_module(f"lab.finetune.{strategy}"), strategy)(model)
    for name, parameter in model.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(parameter, std=0.1)
    save_huggingface(model.eval(), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(60, (2, 7))
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model({"input_ids": ids}), rtol=1e-4, atol=1e-5)
    merge_quantized(model)
    with pytest.raises(ValueError, match="no model of transformers"):
        save_huggingface(nn.Linear(1, 1), tmp_path / "other")


@pytest.mark.slow
def test_a_run_with_four_bits_resumes_in_the_same_bits_and_is_exported(lab, tmp_path):
    make_corpus(tmp_path)
    sizes = "{hidden_size:64,intermediate_size:64,num_hidden_layers:1,num_attention_heads:2,num_key_value_heads:1}"
    options = [*SMALL, "model=huggingface", "model.name=llama", "model.head=causal", f"model.config={sizes}"]
    options += ["finetune_strategy=qlora", "optimizer=adamw8bit", "task.samples=0", "steps=4"]
    checked = lab("check", "--resume", *options)
    assert checked.code == 0, checked.out + checked.err
    done = lab("train", *options, "hydra.run.dir=run")
    assert done.code == 0, done.err
    exported = lab("export", "run", "folder")
    assert exported.code == 0, exported.err
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "folder").iterdir()
    }
    again = lab("export", "run", "folder")
    assert again.code == 2
    started = lab("check", *SMALL, *TINY, "finetune_strategy=qlora", "steps=2")
    assert started.code == 0, started.err
