"""MMPretrain's heads: their class scores, and the activation that their loss means."""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.score_readers import register_score_reader

#: Logits of the trial, and the constant that is added to them.
_IMAGES, _SHIFT = 4, 3.0
_UNUSED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@register_score_reader('mmpretrain.ConformerHead')
def read_both_branches(head: nn.Module, output: Any) -> list[Tensor]:
    """Read Conformer's head: it predicts by the sum of the logits of its two branches."""
    return [sum(output[1:], output[0])]


@register_score_reader('mmpretrain.ArcFaceClsHead', tap='norm_product')
def read_without_margin(head: Any, cosine: Tensor) -> list[Tensor]:
    """Read a margin head before the margin of the label: scaled cosines, as in its predictions."""
    return [head.scale * cosine]


def needs_target(head: nn.Module) -> bool:
    """Whether the forward of a head has an argument beside the features, such as the label.

    Its training output can then depend on the label, where a teacher has none.
    """
    parameters = inspect.signature(head.forward).parameters.values()
    return len([one for one in parameters if one.kind not in _UNUSED]) > 1


def loss_modules(head: nn.Module) -> dict[str, nn.Module]:
    """Return the loss modules of a head; hooks of the frameworks replace them during training."""
    return {name: module for name, module in head.named_children() if 'loss' in name}


def activation_of(head: Any, classes: int) -> str | None:
    """Measure whether the loss of a head means a softmax or a sigmoid; None if it cannot be run.

    A loss under a softmax stays the same if a constant is added to all logits of an image.

    Args:
        head: The module that owns the loss: a head, or a model without one.
        classes: Number of its classes.

    Example:
        >>> head = nn.Module()
        >>> head.loss_module = nn.BCEWithLogitsLoss()
        >>> activation_of(head, 5)
        'sigmoid'
        >>> head.loss_module = nn.CrossEntropyLoss()
        >>> activation_of(head, 5)
        'softmax'
    """
    for loss in loss_modules(head).values():
        trial = copy.deepcopy(loss)  # some losses count the classes that they meet
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            device = next((b.device for b in head.parameters()), torch.device('cpu'))
            logits = torch.randn(_IMAGES, classes).to(device)
        index = torch.arange(_IMAGES, device=device) % classes
        for target in (index, nn.functional.one_hot(index, classes).float()):
            try:
                with torch.no_grad():
                    plain, shifted = trial(logits, target), trial(logits + _SHIFT, target)
                change, size = float((shifted - plain).abs().max()), float(plain.abs().max())
            except Exception:  # a loss for another form of target
                continue
            if classes > 1 and change <= 1e-4 * (1 + size):
                return 'softmax'
            return 'sigmoid' if classes > 1 or 'sigmoid' in _words(loss) else 'softmax'
    return None


def _words(loss: nn.Module) -> str:
    """Return the names of the true attributes of a loss: one class shows no difference."""
    return ' '.join(name for name, value in vars(loss).items() if value is True)


def classes_of(head: nn.Module) -> int | None:
    """Return the number of classes: as the head states it, or as its last linear layer has it."""
    stated = getattr(head, 'num_classes', None)
    if isinstance(stated, int) and stated > 0:
        return stated
    linear = [m for m in head.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    if not linear:
        return None
    last = linear[-1]
    return last.out_features if isinstance(last, nn.Linear) else last.out_channels
