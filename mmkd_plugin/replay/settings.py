"""The key ``replay`` of a teacher."""

from dataclasses import dataclass
from typing import Any

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.replay.dense import DenseCodec
from mmkd_plugin.replay.logits import ALL_UP_TO, LogitCodec
from mmkd_plugin.replay.rows import RowFormat


@dataclass(frozen=True)
class ReplaySettings:
    """The key ``replay`` of a teacher.

    Args:
        path: Folder of the store. Runs that share it share the teacher's outputs.
        views: Number of views of each image; that of the ReplayedDataset, which is compared.
        top: Number of class scores that are kept of more than 256; None keeps all.
        dtype: ``'float16'`` or ``'float32'``; the latter returns outputs bit for bit.
        locations: Number of locations an image that are kept of a dense head.
        background: Probability from which a location of a dense head is kept.
        max_bytes: Largest size of the store that is wanted; None for 64 GiB.

    Raises:
        ConfigError: If ``path`` is no path.
    """

    path: str
    views: int | None = None
    top: int | None = None
    dtype: str = 'float16'
    locations: int = 512
    background: float = 0.05
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise ConfigError('path', 'must be the folder of a store', found=self.path)

    def format_of(self, output: NetworkOutput) -> RowFormat:
        """Return the format of a row for outputs like this one."""
        return RowFormat.of(output, self.dtype, self.top, self.locations, self.background)

    def require_same(self, stored: RowFormat) -> None:
        """Refuse a store of another type or truncation than the config states.

        Raises:
            ConfigError: With the first setting that differs.
        """
        found: dict[str, Any] = dict(dtype=stored.dtype)
        codec = stored.scores
        if isinstance(codec, DenseCodec):
            found |= dict(locations=codec.locations, background=codec.background)
            codec = codec.codec
        if codec is not None:
            LogitCodec(codec.columns, codec.activation, self.top)  # is top a number of classes?
            found |= dict(top=codec.top) if codec.columns > ALL_UP_TO else {}
        for name, value in found.items():
            if getattr(self, name) != value:
                raise ConfigError(
                    name,
                    f'is not that of the store, {value!r}',
                    'Write the value of the store, or give another path.',
                    found=getattr(self, name),
                )
