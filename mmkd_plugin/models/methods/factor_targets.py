"""The teachers' factors: from paraphrasers that were trained before, or that learn along."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import config_key
from mmkd_plugin.models.connectors import FrozenParaphraser, Paraphraser
from mmkd_plugin.models.losses import reconstruction_loss, relative_error
from mmkd_plugin.models.methods.channels import feature
from mmkd_plugin.outputs import Knowledge


class Paraphrasers(nn.Module):
    """Paraphrasers of peers' maps, one a pair, which learn to reconstruct these while the peers change.

    Args:
        pairs: Whose ``index`` and ``teacher`` say which map.
        paraphrasers: One a pair.
    """

    def __init__(
        self, pairs: Sequence[Mapping[str, Any]], paraphrasers: Sequence[Paraphraser]
    ) -> None:
        super().__init__()
        self.sources = [(pair.get('index', 0), pair['teacher']) for pair in pairs]
        self.paraphrasers = nn.ModuleList(paraphrasers)

    def forward(self, teachers: Sequence[Knowledge]) -> dict[str, Tensor]:
        """Reconstruction loss and relative error, each the sum or the mean over pairs; no gradient reaches a teacher."""
        losses, errors = [], []
        for (index, tap), paraphraser in zip(self.sources, self.paraphrasers, strict=True):
            target = feature(teachers[index], tap).detach()
            reconstruction = paraphraser(target)
            losses.append(reconstruction_loss(reconstruction, target))
            errors.append(relative_error(reconstruction, target))
        return {
            'loss_rec': sum(losses[1:], losses[0]),
            'relative_error': torch.stack(errors).mean(),
        }


class FactorTargets(nn.Module):
    """One paraphraser a pair: the encoder of a trained one where the pair has a ``checkpoint``, otherwise one that learns along.

    Args:
        pairs: Of the method.
        paraphraser: Config of those that learn along; ``type`` may be left out.

    Raises:
        ValueError: If only some pairs have a checkpoint, or a config is given beside checkpoints, which bring their own.
    """

    def __init__(
        self, pairs: Sequence[Mapping[str, Any]], paraphraser: Mapping[str, Any] | None
    ) -> None:
        super().__init__()
        self._pairs = pairs
        self._config = {key: value for key, value in (paraphraser or {}).items() if key != 'type'}
        given = [pair.get('checkpoint') is not None for pair in pairs]
        if any(given) and not all(given):
            raise ValueError(
                f'pairs[{given.index(False)}].checkpoint: expected one in every pair or in none, got {given.count(True)} of {len(given)}'
            )
        if paraphraser is not None and paraphraser.get('type', 'Paraphraser') != 'Paraphraser':
            raise ValueError(
                f"paraphraser.type: expected 'Paraphraser', got {paraphraser['type']!r}"
            )
        if self._config and any(given):
            raise ValueError(
                f'paraphraser: expected none where pairs have a checkpoint, which says its own, got {paraphraser!r}'
            )
        self._given = all(given)
        self.trained = nn.ModuleList()
        self._apart: tuple[
            Paraphrasers, ...
        ] = ()  # in a tuple, so that it is no child: somebody else trains it

    @property
    def apart(self) -> Paraphrasers | None:
        """See :attr:`Method.apart`."""
        return self._apart[0] if self._apart else None

    @property
    def files_of_teachers(self) -> list[tuple[int, bytes]]:
        """See :attr:`Method.files_of_teachers`."""
        trained = [cast(FrozenParaphraser, one) for one in self.trained]
        return [
            (pair.get('index', 0), one.teacher_sha256)
            for pair, one in zip(self._pairs, trained, strict=False)
        ]

    def bind(self, channels: Sequence[int]) -> list[int]:
        """Load or build, for the teachers' channels; give each pair's factor channels.

        Raises:
            ValueError: If a checkpoint is of no paraphraser, or of one for another tap or other channels.
        """
        if not self._given:
            with config_key('paraphraser'):
                learning = [Paraphraser(count, **self._config) for count in channels]
            self._apart = (Paraphrasers(self._pairs, learning),)
            return [one.factor_channels for one in learning]
        factor_channels = []
        for number, (pair, count) in enumerate(zip(self._pairs, channels, strict=True)):
            key = f'pairs[{number}].checkpoint'
            one = FrozenParaphraser.load(
                pair['checkpoint'], key, tap=pair['teacher'], in_channels=count
            )
            self.trained.append(one)
            factor_channels.append(one.factor_channels)
        return factor_channels

    @torch.no_grad()
    def factor(self, number: int, feature: Tensor) -> Tensor:
        """Of the pair ``number`` the factor (N, c, H, W) of its teacher's map (N, C, H, W), without gradient."""
        paraphrasers = self._apart[0].paraphrasers if self._apart else self.trained
        return cast(Paraphraser | FrozenParaphraser, paraphrasers[number]).encode(feature)
