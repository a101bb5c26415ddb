"""The adapters that `lora` and `dora` train, as folders of weights and settings for Hugging Face's peft."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from lab.models.low_rank import LoRA, adapted_tensors, is_transposed

SETTINGS_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # prefix of every key in an adapter's file


def save_adapter(model: nn.Module, folder: Path, base: str | None = None) -> None:
    """Write the adapter that `lora` or `dora` trained in `model` to `folder`, as peft 0.21 reads it.

    Modules that were trained besides the adapter, such as the head, are written whole. If the model wraps a Hugging
    Face model, the names are those inside the wrapped model.
    base: name of the pretrained model, which peft needs to load the adapter.
    Raises ValueError for a model without an adapter, and for adapted weights that peft cannot express.
    """
    settings, prefix = peft_settings(model), wrapper_prefix(model)
    tensors = {key: value.reshape(shape) for key, (value, shape) in adapter_tensors(model).items()}
    trained_modules = {
        name.rpartition(".")[0]
        for name, p in model.named_parameters()
        if p.requires_grad and not is_parametrized_key(name)
    }
    for name in sorted(trained_modules):
        state = model.get_submodule(name).state_dict(prefix=f"{PREFIX}{name.removeprefix(prefix)}.")
        tensors |= {key: value for key, value in state.items() if not is_parametrized_key(key)}
    settings["modules_to_save"] = sorted(name.removeprefix(prefix) for name in trained_modules) or None
    settings["base_model_name_or_path"] = base
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors accepts no tensors that share memory
    copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    import_safetensors().save_file(copies, folder / WEIGHTS_FILE, {"format": "pt"})
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Load an adapter that peft or `save_adapter` wrote into a model that `lora` or `dora` has prepared with the same
    options. Pickled weights are not read, so no code in the folder is run.

    Raises FileNotFoundError for missing files, and ValueError that names the differences.
    """
    for name in (SETTINGS_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}; an adapter is a folder with {SETTINGS_FILE} and {WEIGHTS_FILE}"
            )
    settings, prefix = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8")), wrapper_prefix(model)
    if mismatch := describe_mismatch(settings, peft_settings(model)):
        raise ValueError(f"the adapter in {folder} {mismatch}")
    with _disable_current_modes():  # safetensors cannot create the fake tensors of a cost estimate
        saved = import_safetensors().load_file(folder / WEIGHTS_FILE)
    needed = {key: value for key, (value, _) in adapter_tensors(model).items()}
    known = {
        PREFIX + key.removeprefix(prefix): value
        for key, value in model.state_dict().items()
        if not is_parametrized_key(key)
    }
    known |= needed
    differences = {
        "missing": needed.keys() - saved.keys(),
        "unknown": saved.keys() - known.keys(),
        "of another size": {key for key in saved.keys() & known.keys() if saved[key].numel() != known[key].numel()},
    }
    if any(differences.values()):
        lists = "; ".join(f"{kind}: {', '.join(sorted(keys))}" for kind, keys in differences.items() if keys)
        raise ValueError(f"the adapter in {folder} does not fit; {lists}. Its targets: {settings['target_modules']}")
    loaded: dict[int, str] = {}
    with torch.no_grad():
        for key, value in saved.items():
            value = value.reshape(known[key].shape)
            earlier = loaded.setdefault(known[key].data_ptr(), key)
            if earlier != key and not torch.equal(known[key], value.to(known[key])):
                raise ValueError(
                    f"the adapter in {folder} changes {earlier} and {key} differently, but {type(model).__name__} has "
                    "one tensor for both; train an adapter with other targets"
                )
            known[key].copy_(value)


def peft_settings(model: nn.Module) -> dict[str, Any]:
    """peft's settings for the adapter of a model. Raises ValueError for a model without one."""
    adapted, prefix = adapted_tensors(model), wrapper_prefix(model)
    if not adapted:
        raise ValueError(f"{type(model).__name__} has no adapter; finetune_strategy=lora or dora trains one")
    first = adapted[0][-1]
    rank = first.down.shape[0]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "r": rank,
        "lora_alpha": round(float(first.scale) * rank, 6),
        "use_dora": any(key.endswith(".1.magnitude") for key in model.state_dict()),
        "target_modules": [name.removeprefix(prefix) for name, *_ in adapted],
        "fan_in_fan_out": any(
            change.transposed is not None and not is_embedding(module) for _, module, _, change in adapted
        ),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }


def describe_mismatch(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The difference between an adapter's settings and those of the model that loads it; empty if they agree."""
    if theirs.get("peft_type") != "LORA":
        return f"is of the type {theirs.get('peft_type')}, not LORA"
    if theirs.get("rank_pattern") or theirs.get("alpha_pattern"):
        return "has ranks or alphas that differ between modules, which lab's lora and dora do not support"
    if bool(theirs.get("use_dora")) != ours["use_dora"]:
        return f"needs finetune_strategy={'dora' if theirs.get('use_dora') else 'lora'}"
    rank, alpha = theirs["r"], theirs["lora_alpha"] * (math.sqrt(theirs["r"]) if theirs.get("use_rslora") else 1)
    if rank != ours["r"] or not math.isclose(alpha, ours["lora_alpha"], rel_tol=1e-5):
        return f"has another rank or scale: give finetune_strategy.rank={rank} finetune_strategy.alpha={alpha:g}"
    return ""


def adapter_tensors(model: nn.Module) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    """The adapter's tensors by peft's keys, each with its shape in peft.

    Raises ValueError that names the adapted weights which peft cannot express.
    """
    tensors, refused, prefix = {}, [], wrapper_prefix(model)
    for name, module, tensor, change in adapted_tensors(model):
        if reason := why_inexpressible(model, name, module, change):
            refused.append(f"{name}.{tensor} ({reason})")
            continue
        changes: Any = module.parametrizations[tensor]  # type: ignore[index,operator]
        kernel = changes.original.shape[2:]
        ones, path = (1,) * len(kernel), f"{PREFIX}{name.removeprefix(prefix)}."
        a, b = ("lora_embedding_A", "lora_embedding_B") if is_embedding(module) else ("lora_A.weight", "lora_B.weight")
        inputs = (changes.original.shape[1], *kernel) if kernel else change.down.shape[1:]
        tensors[path + a] = (change.down, (change.down.shape[0], *inputs))
        tensors[path + b] = (change.up, (*change.up.shape, *ones))
        if len(changes) > 1:
            magnitude = changes[1].magnitude
            tensors[path + "lora_magnitude_vector"] = (magnitude, (1, -1, *ones) if kernel else magnitude.shape)
    if refused:
        raise ValueError(f"peft has no adapter for {', '.join(refused)}; train one with other targets")
    return tensors


def why_inexpressible(model: nn.Module, name: str, module: nn.Module, change: LoRA) -> str:
    """The reason why peft cannot express the adapter of a module; empty if it can."""
    if is_transposed(module) != (change.transposed is not None):
        return "it shares its weight with a module that has it transposed, an embedding"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "a recurrent layer"
    parent = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, nn.MultiheadAttention) or isinstance(parent, nn.MultiheadAttention):
        return "torch's MultiheadAttention, where peft adapts both projections or trains nothing"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and (
        module.groups > 1 or set(module.dilation) != {1} or module.padding_mode != "zeros"
    ):
        return "a convolution with groups, dilation or another padding than zeros"
    return ""


def wrapper_prefix(model: nn.Module) -> str:
    """The name of the Hugging Face model that a model wraps, with a dot; empty if it wraps none."""
    name = next((name for name, module in model.named_modules() if hasattr(module, "save_pretrained")), "")
    return f"{name}." if name else ""


def is_embedding(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding)


def is_parametrized_key(key: str) -> bool:
    return "parametrizations." in key


def import_safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ValueError("adapters need safetensors: pip install -e '.[peft]'") from error
    return safetensors.torch
