"""Train the head alone, then everything from where that has led.

Source: Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution,
arXiv:2202.10054.
"""

from torch import nn

from lab.finetune.groups import train_only
from lab.models.blocks import body_and_head


def lp_ft(model: nn.Module, probe_epochs: float, head: str | None = None, body_lr_scale: float = 1.0) -> list[dict]:
    """Two groups: the head's parameters, and from `probe_epochs` on those of the body.

    head: a submodule's name; None: the model's last block.  body_lr_scale: of the body's learning rate. The paper
    fits the probe to its end and tunes the second phase's rate for itself; here one schedule spans both phases, and
    the head keeps the optimizer's rate.
    """
    if probe_epochs <= 0:
        raise ValueError(f"probe_epochs {probe_epochs} is not positive; without a probe it is finetune_strategy=full")
    if body_lr_scale <= 0:
        raise ValueError(
            f"body_lr_scale {body_lr_scale} is not positive; finetune_strategy=linear_probe leaves the body as it is"
        )
    body, top = body_and_head(model, head)
    groups = train_only(model, {"head": top, "body": [p for parameters in body.values() for p in parameters]})
    later = {"head": {}, "body": {"from_epoch": probe_epochs, "lr_scale": body_lr_scale}}
    return [{**group, **later[group["name"]]} for group in groups]
