"""What `lora` or `dora` trained, in a folder as Hugging Face's peft keeps it: the weights, and their settings."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from lab.models.low_rank import adapted_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def save_adapter(model: nn.Module, folder: Path, base: str | None = None) -> None:
    """Write what `lora` or `dora` trained of `model` to `folder`, as peft 0.21 reads it.

    Modules trained beside the adapter, such as the head, go in whole. A Hugging Face model inside of another module is
    what the names are of.  base: the name of the pretrained model, for those who load the adapter.
    Raises ValueError where there is no adapter, or one of weights that peft cannot express, which are named.
    """
    settings, prefix = peft_settings(model), wrapper_prefix(model)
    tensors = {key: value.reshape(shape) for key, (value, shape) in low_rank_factors(model).items()}
    beside = {
        name.rpartition(".")[0]
        for name, p in model.named_parameters()
        if p.requires_grad and not is_parametrized_key(name)
    }
    for name in sorted(beside):
        state = model.get_submodule(name).state_dict(prefix=f"{PREFIX}{name.removeprefix(prefix)}.")
        tensors |= {key: value for key, value in state.items() if not is_parametrized_key(key)}
    settings["modules_to_save"] = sorted(name.removeprefix(prefix) for name in beside) or None
    settings["base_model_name_or_path"] = base
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors takes no tensors that share memory
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    import_safetensors().save_file(plain, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Load an adapter that peft or `save_adapter` wrote into a model to which `lora`, or `dora`, was applied as it was
    to the adapter's. No code in the folder is run: weights as pickles are not read.

    Raises FileNotFoundError, or ValueError that says what differs.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}; an adapter is a folder with {CONFIG} and {WEIGHTS}")
    theirs, prefix = json.loads((folder / CONFIG).read_text()), wrapper_prefix(model)
    if said := describe_mismatch(theirs, peft_settings(model)):
        raise ValueError(f"the adapter in {folder} {said}")
    with _disable_current_modes():  # safetensors cannot give tensors without values, by which a step's cost is found
        saved = import_safetensors().load_file(folder / WEIGHTS)
    needed = {key: value for key, (value, _) in low_rank_factors(model).items()}
    known = {
        PREFIX + key.removeprefix(prefix): value
        for key, value in model.state_dict().items()
        if not is_parametrized_key(key)
    }
    known |= needed
    wrong = {
        "missing": needed.keys() - saved.keys(),
        "unknown": saved.keys() - known.keys(),
        "of another size": {key for key in saved.keys() & known.keys() if saved[key].numel() != known[key].numel()},
    }
    if any(wrong.values()):
        said = "; ".join(f"{what}: {', '.join(sorted(keys))}" for what, keys in wrong.items() if keys)
        raise ValueError(f"the adapter in {folder} does not fit; {said}. Its targets: {theirs['target_modules']}")
    with torch.no_grad():
        for key, value in saved.items():
            known[key].copy_(value.reshape(known[key].shape))


def peft_settings(model: nn.Module) -> dict[str, Any]:
    """peft's settings for the adapter of a model."""
    found, prefix = adapted_tensors(model), wrapper_prefix(model)
    if not found:
        raise ValueError(f"{type(model).__name__} has no adapter; finetune_strategy=lora or dora trains one")
    part = found[0][-1]
    rank = part.down.shape[0]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "r": rank,
        "lora_alpha": round(float(part.scale) * rank, 6),
        "use_dora": any(key.endswith(".1.magnitude") for key in model.state_dict()),
        "target_modules": [name.removeprefix(prefix) for name, *_ in found],
        "fan_in_fan_out": any(part.transposed is not None and not is_embedding(module) for _, module, _, part in found),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }


def describe_mismatch(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """How the settings of an adapter differ from those of the model that is to take it; empty where they agree."""
    if theirs.get("peft_type") != "LORA":
        return f"is of the kind {theirs.get('peft_type')}, not LORA"
    if theirs.get("rank_pattern") or theirs.get("alpha_pattern"):
        return "has ranks or alphas that differ from module to module, which lora and dora here have not"
    if bool(theirs.get("use_dora")) != ours["use_dora"]:
        return f"is one of finetune_strategy={'dora' if theirs.get('use_dora') else 'lora'}"
    rank, alpha = theirs["r"], theirs["lora_alpha"] * (math.sqrt(theirs["r"]) if theirs.get("use_rslora") else 1)
    if rank != ours["r"] or not math.isclose(alpha, ours["lora_alpha"], rel_tol=1e-5):
        return f"has another rank or scale: give finetune_strategy.rank={rank} finetune_strategy.alpha={alpha:g}"
    return ""


def low_rank_factors(model: nn.Module) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    """The adapter's own tensors by peft's names, each with peft's shape. Raises ValueError for what peft cannot do."""
    found, refused, prefix = {}, [], wrapper_prefix(model)
    for name, module, tensor, part in adapted_tensors(model):
        if why := why_inexpressible(model, name, module):
            refused.append(f"{name}.{tensor} ({why})")
            continue
        parts: Any = module.parametrizations[tensor]  # type: ignore[index,operator]
        kernel = parts.original.shape[2:]
        ones, path = (1,) * len(kernel), f"{PREFIX}{name.removeprefix(prefix)}."
        a, b = ("lora_embedding_A", "lora_embedding_B") if is_embedding(module) else ("lora_A.weight", "lora_B.weight")
        inputs = (parts.original.shape[1], *kernel) if kernel else part.down.shape[1:]
        found[path + a] = (part.down, (part.down.shape[0], *inputs))
        found[path + b] = (part.up, (*part.up.shape, *ones))
        if len(parts) > 1:
            magnitude = parts[1].magnitude
            found[path + "lora_magnitude_vector"] = (magnitude, (1, -1, *ones) if kernel else magnitude.shape)
    if refused:
        raise ValueError(f"peft has no adapter for {', '.join(refused)}; train one with other targets")
    return found


def why_inexpressible(model: nn.Module, name: str, module: nn.Module) -> str:
    """Why peft cannot adapt a module as it is adapted here; empty where it can."""
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
    """What comes before the names inside of the Hugging Face model that a model is made around; else nothing."""
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
        raise ValueError("adapters are files of safetensors, which is not here: pip install -e '.[peft]'") from error
    return safetensors.torch
