"""Train only the head, then everything from the result.

Source: Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution,
arXiv:2202.10054.
"""

from torch import nn

from lab.finetune.groups import ParameterGroups, train_only
from lab.models.blocks import body_and_head


def lp_ft(
    model: nn.Module, probe_epochs: float, head: str | None = None, body_lr_scale: float = 1.0
) -> ParameterGroups:
    """Two groups: the parameters of the head, and those of the body, which train from epoch `probe_epochs` on.

    head: name of a submodule; None for the model's last block.  body_lr_scale: multiplier on the body's learning rate.
    The paper trains the probe to convergence and tunes the second phase's rate separately; here one schedule spans both
    phases, and the head keeps the optimizer's rate.
    """
    if probe_epochs <= 0:
        raise ValueError(f"probe_epochs {probe_epochs} is not positive; finetune_strategy=full trains without a probe")
    if body_lr_scale <= 0:
        raise ValueError(
            f"body_lr_scale {body_lr_scale} is not positive; finetune_strategy=linear_probe keeps the body fixed"
        )
    body, top = body_and_head(model, head)
    groups = train_only(model, {"head": top, "body": [p for parameters in body.values() for p in parameters]})
    options = {"head": {}, "body": {"from_epoch": probe_epochs, "lr_scale": body_lr_scale}}
    return [{**group, **options[group["name"]]} for group in groups]
