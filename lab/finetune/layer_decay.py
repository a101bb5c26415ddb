"""Train every layer at its own learning rate, which decays from the head down to the embeddings.

Source: Clark et al. 2020, ELECTRA, arXiv:2003.10555. The layers are numbered as in BEiT, Bao et al. 2022,
arXiv:2106.08254, and MAE, He et al. 2022, arXiv:2111.06377.
"""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import body_and_head, repeated_blocks


def layer_decay(model: nn.Module, decay: float = 0.75, head: str | None = None) -> ParameterGroups:
    """A group for each layer n, at the optimizer's learning rate times decay ** (L + 1 - n), the uppermost layer first.

    Layer 0 is everything before the L blocks that the model repeats, layers 1 to L are those blocks, layer L + 1 is
    everything after them (the last normalisation, the head). If the model repeats no block, every block below the head
    is a layer. BEiT also exempts biases and normalisations from weight decay; give weight_decay_on=matrices for that.
    decay: factor on the learning rate from each layer to the one below.
    head: name of a submodule; None for the model's last block.
    """
    if not 0 < decay <= 1:
        raise ValueError(
            f"decay {decay} is not in (0, 1]; 0.65 to 0.9 are usual, and 1 gives every layer the same rate"
        )
    body, top = body_and_head(model, head)
    repeated = [name for name in repeated_blocks(model, head) if name in body] or list(body)[1:]
    first = list(body).index(repeated[0]) if repeated else len(body)
    highest = len(repeated) + 1
    layers: dict[int, list[nn.Parameter]] = {highest: list(top)}
    for number, parameters in enumerate(body.values()):
        layers.setdefault(min(max(0, number - first + 1), highest), []).extend(parameters)
    scales = {f"layer {n}": decay ** (highest - n) for n in sorted(layers, reverse=True)}
    groups = train_only(model, {f"layer {n}": layers[n] for n in sorted(layers, reverse=True)})
    return [{**group, "lr_scale": scales[group["name"]]} for group in groups]
