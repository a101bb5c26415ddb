"""Which parameters have no weight decay, over models of torchvision, timm and Hugging Face."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

from lab.finetune.dora import dora
from lab.optim.decay import no_decay_groups

TORCHVISION = (
    "resnet18 convnext_tiny swin_t swin_v2_t vit_b_32 maxvit_t efficientnet_b0 mobilenet_v3_small densenet121 googlenet"
)
TIMM = (
    "resnet18 vit_tiny_patch16_224 swin_tiny_patch4_window7_224 beit_base_patch16_224 "
    "swinv2_tiny_window8_256 convnext_atto cait_xxs24_224 xcit_nano_12_p16_224 levit_128s mvitv2_tiny hiera_tiny_224 "
    "coatnet_nano_rw_224 eva02_tiny_patch14_224 poolformer_s12 efficientformer_l1 deit_tiny_distilled_patch16_224 "
    "maxvit_rmlp_pico_rw_256 mixer_s32_224 resmlp_12_224 vit_little_patch16_reg4_gap_256 volo_d1_224 efficientvit_b0"
)
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
HUGGING_FACE: dict[str, dict[str, Any]] = {
    "ViT": {**SMALL, "image_size": 32},
    "Beit": {**SMALL, "image_size": 32, "use_relative_position_bias": True, "use_absolute_position_embeddings": True},
    "Dinov2": {**SMALL, "image_size": 28},
    "Swin": {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "use_absolute_embeddings": True},
    "ConvNext": {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
    "Bert": SMALL,
    "DistilBert": {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "GPT2": {"n_embd": 24, "n_layer": 2, "n_head": 2},
    "T5": {"d_model": 24, "d_ff": 32, "num_layers": 2, "num_heads": 2, "d_kv": 12},
    "OPT": {**SMALL, "ffn_dim": 32, "word_embed_proj_dim": 24},
    "DebertaV2": {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
}


def hugging_face(name: str) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(**HUGGING_FACE[name])
    kinds = (f"{name}For{task}Classification" for task in ("Image", "Sequence"))
    return next(getattr(transformers, kind) for kind in kinds if hasattr(transformers, kind))(config)


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{f"torchvision {name}": lambda name=name: torchvision.models.get_model(name) for name in TORCHVISION.split()},
    **{f"timm {name}": lambda name=name: timm.create_model(name) for name in TIMM.split()},
    **{f"transformers {name}": lambda name=name: hugging_face(name) for name in HUGGING_FACE},
}


def decayed_by_definition(model: nn.Module) -> set[str]:
    """The weights of linear layers, convolutions, attention and word embeddings, without what timm's models name."""
    linear = (nn.Linear, nn.modules.conv._ConvNd, transformers.pytorch_utils.Conv1D)
    exceptions = getattr(model, "no_weight_decay", tuple)()
    names = set()
    for place, module in model.named_modules():
        own = {f"{place}.{name}".lstrip("."): name for name, _ in module.named_parameters(recurse=False)}
        if isinstance(module, nn.MultiheadAttention):
            names |= {key for key, name in own.items() if name.endswith("proj_weight")}
        elif isinstance(module, linear) or (isinstance(module, nn.Embedding) and not is_position_table(place)):
            names |= {key for key, name in own.items() if name == "weight"}
    return {name for name in names if not any(fnmatchcase(name, pattern) for pattern in exceptions)}


def is_position_table(place: str) -> bool:
    last = place.rpartition(".")[2]
    return last in ("position_embeddings", "wpe", "embed_positions", "relative_attention_bias", "rel_embeddings")


@pytest.mark.parametrize("name", MODELS)
def test_weights_have_decay_and_scales_shifts_tokens_and_positions_have_none(name):
    with torch.device("meta"):
        model = MODELS[name]()
    names = {id(p): name for name, p in model.named_parameters()}
    groups = no_decay_groups([{"params": list(model.parameters())}], model)
    assert [group.get("weight_decay") for group in groups] == [None, 0.0]
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in groups)
    assert decayed == decayed_by_definition(model) & set(names.values())
    assert decayed | spared == set(names.values())
    assert not decayed & spared


def spared_names(model: nn.Module) -> set[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    groups = no_decay_groups([{"params": list(model.parameters())}], model)
    return {names[id(p)] for group in groups if "weight_decay" in group for p in group["params"]}


class Oddities(nn.Module):
    """Weights that look like scales, and scales that look like weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one_output, self.one_input = nn.Linear(8, 1, bias=False), nn.Conv1d(1, 8, 1, bias=False)
        self.image_norm = nn.LayerNorm([3, 4, 4])
        self.weight = nn.Parameter(torch.ones(1, 8))
        self.temperature = nn.Parameter(torch.ones(2, 1, 1))
        self.mask_token, self.pos_embed = nn.Parameter(torch.ones(2, 8)), nn.Parameter(torch.ones(1, 5, 8))
        self.attention_biases = nn.Parameter(torch.ones(2, 9))
        self.decay_rates = nn.Parameter(torch.ones(8, 4))
        vars(self.decay_rates)["_no_weight_decay"] = True
        self.pos_proj = nn.Linear(8, 8, bias=False)
        self.experts = nn.Parameter(torch.ones(2, 8, 8))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8, bias=False))


def test_a_parameter_is_what_its_module_and_name_make_it_not_its_shape():
    assert spared_names(Oddities()) == {
        *("image_norm.weight", "image_norm.bias", "temperature", "mask_token", "pos_embed", "attention_biases"),
        *("decay_rates", "normed.parametrizations.weight.original0"),
    }


def test_a_models_own_list_counts_inside_of_a_wrapper():
    inner = timm.create_model("swinv2_tiny_window8_256", img_size=64, depths=(1, 1, 1, 1))
    spared = spared_names(nn.ModuleDict({"inner": inner}))
    assert "inner.layers.0.blocks.0.attn.cpb_mlp.0.weight" in spared
    assert spared == {f"inner.{name}" for name in spared_names(inner)}


def test_the_factors_of_low_rank_changes_are_matrices_of_any_rank_and_magnitudes_are_scales():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    dora(model, rank=1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert spared_names(model) & trained == {"0.parametrizations.weight.1.magnitude", "1.bias"}


def test_without_the_model_shapes_tell():
    shapes = [(8,), (), (8, 1, 1), (1, 1, 8), (8, 1), (1, 8), (8, 8), (8, 4, 3, 3), (1, 5, 8)]
    parameters = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    decayed, spared = no_decay_groups([{"params": parameters, "lr": 0.1}])
    assert [tuple(p.shape) for p in spared["params"]] == shapes[:4]
    assert (decayed["lr"], spared["lr"], spared["weight_decay"]) == (0.1, 0.1, 0.0)
