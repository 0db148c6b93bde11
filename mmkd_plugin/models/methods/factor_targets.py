"""Factors of teachers' maps, from trained paraphrasers or from ones that learn with the peers."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.probe import TeacherProbe
from mmkd_plugin.errors import ConfigError, construct, mapping
from mmkd_plugin.models.connectors import FrozenParaphraser, Paraphraser
from mmkd_plugin.models.losses import reconstruction_loss, relative_error
from mmkd_plugin.models.methods.paired import Pair
from mmkd_plugin.outputs import NetworkOutput


class Paraphrasers(nn.Module):
    """Paraphrasers of peers' maps, one a pair, trained by reconstruction while the peers change.

    Args:
        pairs: Pairs whose ``index`` and ``teacher`` name the maps.
        paraphrasers: One for each pair.
    """

    def __init__(self, pairs: Sequence[Pair], paraphrasers: Sequence[Paraphraser]) -> None:
        super().__init__()
        self.sources = [(pair.index, pair.teacher) for pair in pairs]
        self.paraphrasers = nn.ModuleList(paraphrasers)

    def forward(self, teachers: Sequence[NetworkOutput]) -> dict[str, Tensor]:
        """Return the summed reconstruction loss and the mean relative error.

        No gradient reaches a teacher.
        """
        losses, errors = [], []
        for (index, tap), paraphraser in zip(self.sources, self.paraphrasers, strict=True):
            target = teachers[index].feature(tap).detach()
            reconstruction = paraphraser(target)
            losses.append(reconstruction_loss(reconstruction, target))
            errors.append(relative_error(reconstruction, target))
        total = sum(losses[1:], losses[0])
        return {'loss_rec': total, 'relative_error': torch.stack(errors).mean()}


class FactorTargets(nn.Module):
    """One paraphraser a pair: frozen where the pair has a ``checkpoint``, learning otherwise.

    Args:
        pairs: Pairs of the method.
        paraphraser: Config of learning paraphrasers; ``type`` may be left out.

    Raises:
        ConfigError: If only some pairs have a checkpoint, or a config is given beside checkpoints,
            which bring their own.
    """

    def __init__(self, pairs: Sequence[Pair], paraphraser: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._pairs = pairs
        config = mapping('paraphraser', paraphraser, 'dict(factor_rate=0.5)')
        if config.get('type', 'Paraphraser') != 'Paraphraser':
            raise ConfigError('paraphraser.type', "must be 'Paraphraser'", found=config['type'])
        self._config = {key: value for key, value in config.items() if key != 'type'}
        given = [pair.checkpoint is not None for pair in pairs]
        if any(given) and not all(given):
            raise ConfigError(
                f'pairs[{given.index(False)}].checkpoint',
                f'is missing: {given.count(True)} of {len(given)} pairs have one',
                'Give every pair a checkpoint, or none.',
            )
        if self._config and any(given):
            raise ConfigError(
                'paraphraser',
                'cannot be set where pairs have a checkpoint, which has its own settings',
                'Remove it.',
                found=paraphraser,
            )
        self.trained = nn.ModuleList()
        # No child module: the peer owns it, and another optimizer trains it.
        object.__setattr__(self, 'auxiliary', None)

    auxiliary: Paraphrasers | None

    def build(self, channels: Sequence[int], teachers: Sequence[TeacherProbe]) -> list[int]:
        """Load or build the paraphrasers; return the factor channels of each pair.

        Args:
            channels: Channels of each pair's map of the teacher.
            teachers: Probes of all teachers.

        Raises:
            ConfigError: If a checkpoint is missing, or not of a paraphraser for this map.
        """
        if not all(pair.checkpoint is not None for pair in self._pairs):
            self._require_peers(teachers)
            learning = [
                construct('paraphraser', Paraphraser, dict(in_channels=count, **self._config))
                for count in channels
            ]
            object.__setattr__(self, 'auxiliary', Paraphrasers(self._pairs, learning))
            return [paraphraser.factor_channels for paraphraser in learning]
        for number, (pair, count) in enumerate(zip(self._pairs, channels, strict=True)):
            self.trained.append(self._load(f'pairs[{number}].checkpoint', pair, count, teachers))
        return [cast(FrozenParaphraser, one).factor_channels for one in self.trained]

    @torch.no_grad()
    def factor(self, number: int, feature: Tensor) -> Tensor:
        """Return the factor (N, c, H, W) of the teacher's map (N, C, H, W) of a pair."""
        learning = None if self.auxiliary is None else self.auxiliary.paraphrasers
        paraphraser = (learning or self.trained)[number]
        return cast(Paraphraser | FrozenParaphraser, paraphraser).encode(feature)

    def name(self, number: int) -> str:
        """Return a name of the factor of a pair that no other paraphraser has."""
        if self.auxiliary is not None:
            return ''
        digest = hashlib.sha256()
        for value in self.trained[number].state_dict().values():
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return f'factor {digest.hexdigest()[:16]}'

    def _require_peers(self, teachers: Sequence[TeacherProbe]) -> None:
        for number, pair in enumerate(self._pairs):
            if teachers[pair.index].frozen:
                raise ConfigError(
                    f'pairs[{number}].checkpoint',
                    'is missing: an untrained paraphraser gives random factors',
                    'Train the paraphraser first, with mmkd_plugin.ParaphraserTrainer.',
                )

    def _load(
        self, key: str, pair: Pair, channels: int, teachers: Sequence[TeacherProbe]
    ) -> FrozenParaphraser:
        teacher = teachers[pair.index]
        if not teacher.frozen:
            raise ConfigError(
                key,
                f'cannot be set in mutual learning: {teacher.key} still learns',
                'Remove it: the paraphraser then learns together with the peers.',
                found=pair.checkpoint,
            )
        loaded = FrozenParaphraser.load(
            str(pair.checkpoint), key, tap=pair.teacher, in_channels=channels
        )
        if loaded.teacher_sha256 != teacher.sha256:
            raise ConfigError(
                key,
                f'is of a paraphraser of another teacher file (SHA-256 '
                f'{loaded.teacher_sha256[:8]}…) than {teacher.key}, {teacher.checkpoint} '
                f'({str(teacher.sha256)[:8]}…)',
                'Train the paraphraser on this teacher.',
                found=pair.checkpoint,
            )
        return loaded
