"""A trained paraphraser in stage 2: its encoder, frozen."""

from typing import Self

import torch
from torch import Tensor, nn

from mmkd_plugin.models.connectors.factor_encoder import FactorEncoder
from mmkd_plugin.models.connectors.paraphraser import Paraphraser
from mmkd_plugin.models.connectors.paraphraser_file import load_paraphraser


class FrozenParaphraser(nn.Module):
    """Gives the factor of a teacher's map: no gradient, in eval mode whatever ``train()`` says, and without the decoder.

    Its weights are in the state dict of whoever holds it.

    Args:
        encoder: The trained encoder.
        tap: The teacher's map that it was trained on.
        teacher_sha256: Of the checkpoint file of that teacher.
    """

    def __init__(self, encoder: FactorEncoder, tap: str, teacher_sha256: bytes) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.tap = tap
        self.teacher_sha256 = teacher_sha256
        self.eval()

    @classmethod
    def load(
        cls, path: str, key: str, tap: str | None = None, in_channels: int | None = None
    ) -> Self:
        """Read the checkpoint of a run of :class:`~mmkd_plugin.models.distillers.ParaphraserTrainer`; nothing else need be said of it.

        Args:
            path: Path or URL.
            key: The config key that named it, for messages.
            tap: The teacher's map that it is wanted for.
            in_channels: The channels of that map.

        Raises:
            ValueError: If it is another model's checkpoint or not whole, or a paraphraser of another map or for other channels.
        """
        loaded = load_paraphraser(path, key)
        if tap is not None and tap != loaded.tap:
            raise ValueError(
                f'{key}: expected a paraphraser of {tap!r}, got one that was trained on {loaded.tap!r}: {path}'
            )
        try:
            with torch.random.fork_rng(devices=[]):
                paraphraser = Paraphraser(**loaded.arguments)
            paraphraser.load_state_dict(loaded.state)
        except (RuntimeError, TypeError, ValueError) as error:
            told = ' '.join(str(error).split())
            raise ValueError(
                f'{key}: expected the weights that the record in {path} speaks of, got {told}'
            ) from error
        if in_channels is not None and in_channels != paraphraser.in_channels:
            raise ValueError(
                f'{key}: expected a paraphraser for {in_channels} channels, got one for {paraphraser.in_channels}: {path}'
            )
        return cls(paraphraser.encoder, loaded.tap, loaded.teacher_sha256)

    @property
    def in_channels(self) -> int:
        """Of the teacher's map."""
        return self.encoder.in_channels

    @property
    def factor_channels(self) -> int:
        """Of the factor."""
        return self.encoder.factor_channels

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The factor (N, c, H, W) of a teacher's map (N, m, H, W)."""
        factor: Tensor = self.encoder(x)
        return factor

    forward = encode
