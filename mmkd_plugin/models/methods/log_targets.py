"""Soft targets as logits: standardised, and mixed in the log domain, without loss of digits."""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.adapters.probe import Probe
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.losses import standardize_logits
from mmkd_plugin.outputs import ScoreRows


def log_targets(
    rows: ScoreRows,
    temperature: float,
    weights: Tensor | None = None,
    ensemble: str = 'arithmetic',
) -> Tensor:
    """Mix the teachers' softened probabilities, and return them as logits.

    Args:
        rows: Class scores of all networks.
        temperature: Divides the logits.
        weights: Teacher weights of each image, (N, T); None for a mean. They receive a gradient.
        ensemble: Without weights the ``'arithmetic'`` mean of the probabilities, or the normalised
            ``'geometric'`` one.

    Returns:
        Numbers (R, C) of which the activation makes the mixture: logarithms of the probabilities
        under a softmax, and log-odds of each class under a sigmoid.

    Example:
        >>> teachers = torch.tensor([[[0.9, 0.1], [0.5, 0.5]]]).log()
        >>> rows = ScoreRows(torch.zeros(1, 2), teachers, 'softmax')
        >>> log_targets(rows, 1.0).exp()
        tensor([[0.7000, 0.3000]])
        >>> log_targets(rows, 1.0, torch.tensor([[0.25, 0.75]])).exp()
        tensor([[0.6000, 0.4000]])
        >>> binary = ScoreRows(torch.zeros(1, 2), teachers.exp().logit(), 'sigmoid')
        >>> log_targets(binary, 1.0).sigmoid()
        tensor([[0.7000, 0.3000]])
    """
    softened = rows.teachers / temperature
    if weights is None:
        if ensemble == 'geometric' or softened.shape[1] == 1:
            return softened.mean(dim=1)
        if rows.activation == 'sigmoid':
            return _log_odds(softened)
        log_probs = softened.log_softmax(dim=-1)
        return torch.logsumexp(log_probs, dim=1) - math.log(softened.shape[1])
    of_rows = weights if rows.images is None else weights[rows.images]
    log_weights = safe_log(of_rows).unsqueeze(2)
    if rows.activation == 'sigmoid':
        return _log_odds(softened, log_weights)
    return torch.logsumexp(softened.log_softmax(dim=-1) + log_weights, dim=1)


def safe_log(weights: Tensor) -> Tensor:
    """Return the logarithm of weights; a teacher of weight 0 passes no gradient."""
    return weights.clamp_min(torch.finfo(weights.dtype).tiny).log()


def _log_odds(softened: Tensor, log_weights: Tensor | float = 0.0) -> Tensor:
    """Return the log-odds of mixed sigmoid probabilities; a common factor of weights cancels."""
    yes = torch.logsumexp(F.logsigmoid(softened) + log_weights, dim=1)
    no = torch.logsumexp(F.logsigmoid(-softened) + log_weights, dim=1)
    return yes - no


def standardized(rows: ScoreRows) -> ScoreRows:
    """Return the rows with the logits of each network standardised over the classes."""
    return replace(
        rows,
        student=standardize_logits(rows.student),
        teachers=standardize_logits(rows.teachers),
    )


def require_softmax(key: str, student: Probe, why: str, fix: str, found: object) -> None:
    """Refuse class scores that are no distribution over two or more classes.

    Args:
        key: The config key, for the message.
        student: Probe of the student.
        why: The reason, as a clause.
        fix: The remedy.
        found: The value of the key.

    Raises:
        ConfigError: If the head has a sigmoid, or a single column.
    """
    scores = student.output.scores
    assert scores is not None
    if scores.activation != 'softmax' or scores.logits.shape[-1] < 2:
        raise ConfigError(
            key,
            f'needs a softmax over two or more classes, {why}; the networks output {scores}',
            fix,
            found=found,
        )


def require_standardizable(student: Probe) -> None:
    """Refuse ``standardize=True`` for heads in which a shift of all logits of a row has a meaning.

    Raises:
        ConfigError: If the head has a sigmoid, or a single column.
    """
    why = 'because under a sigmoid the mean that it removes separates objects from background'
    fix = "Set standardize=False. 'SoftTarget', 'DIST' and 'BCKD' take sigmoid scores as they are."
    require_softmax('standardize', student, why, fix, True)
