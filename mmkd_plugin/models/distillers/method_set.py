"""Methods of a run, built from the config key ``methods``."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkd_plugin.adapters.tapped_model import outside_graphs
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods import Method
from mmkd_plugin.models.scheduled_number import ScheduledNumber, scheduled, set_time_of
from mmkd_plugin.registry import build_part

#: Log keys that have another meaning.
_TAKEN = ('task',)


class MethodSet(nn.ModuleDict):
    """Methods by name, without those whose weights are all 0.

    Args:
        configs: ``dict(name=dict(type=…, …), …)``. Our own types need no prefix, whatever the
            default scope of the run. A weight or a temperature may be a schedule, see
            :mod:`mmkd_plugin.models.schedules`.

    Raises:
        ConfigError: If a name or a config is wrong.
    """

    def __init__(self, configs: Any = None) -> None:
        super().__init__()
        #: Scheduled numbers of each method that has some, by their config key.
        self.numbers: dict[str, dict[str, ScheduledNumber]] = {}
        self._seen: dict[str, set[str]] = {}
        if not isinstance(configs, Mapping) or not configs:
            raise ConfigError(
                'methods', "must be dict(name=dict(type='SoftTarget', …), …)", found=configs
            )
        for name, config in configs.items():
            key = f'methods.{name}'
            self._check_name(key, name)
            present, numbers = scheduled(config, key)
            method = build_part(present, Method, key)
            if method.active:  # a scheduled weight has its largest value while methods are built
                self[name] = method
                if numbers:
                    self.numbers[name] = numbers
            else:
                print_log(f'{key} takes no part in this run: its weights are 0', logger='current')

    def named(self) -> Iterator[tuple[str, Method]]:
        """Yield names and methods."""
        return ((name, cast(Method, method)) for name, method in self.items())

    @outside_graphs  # it reads the present iteration of the run
    def set_time(self) -> None:
        """Set the scheduled numbers to the present iteration; once a step, before :meth:`works`."""
        for numbers in self.numbers.values():
            set_time_of(numbers)

    def works(self, name: str) -> bool:
        """Whether a method has a weight above 0 in this iteration."""
        return name not in self.numbers or cast(Method, self[name]).active

    def may_rest(self, name: str) -> bool:
        """Whether all weights of a method are 0 at some time, or can be."""
        weights = cast(Method, self[name]).stated_weights
        return bool(weights) and not any(getattr(one, 'lowest', one) for one in weights)

    def scheduled_parts(self, name: str, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of a method with schedules, and what they set.

        A connector without a gradient would stop DDP, and its optimizer would treat it otherwise
        than in one process. So every parameter has one, which is 0 where the method rests. A loss
        that was there before is 0 then: MMEngine's log would go on with its last values.

        Args:
            name: Name of the method.
            losses: Its losses and metrics; empty if it rests.
        """
        seen = self._seen.setdefault(name, set())
        seen |= {key for key in losses if 'loss' in key}
        parts = {key: torch.zeros(()) for key in sorted(seen - losses.keys())} | dict(losses)
        learning = [p.sum() for p in self[name].parameters() if p.requires_grad]
        if learning:
            first = next((key for key in parts if 'loss' in key), 'loss_rest')
            nothing = 0.0 * torch.stack(learning).sum()
            parts[first] = parts.get(first, torch.zeros(())).to(nothing) + nothing
        for place, number in self.numbers[name].items():
            # MMEngine adds every value with the word 'loss' in its name.
            parts[place.replace('loss_', '').replace('loss', '')] = torch.tensor(float(number))
        return parts

    def _check_name(self, key: str, name: Any) -> None:
        word = isinstance(name, str) and name.isidentifier()
        if not word or 'loss' in name:
            raise ConfigError(
                key,
                "the name must be a word without 'loss': MMEngine adds every log key with that "
                'word to the total',
                found=name,
            )
        if name in _TAKEN or hasattr(self, name):  # an attribute of a module names no child
            raise ConfigError(key, 'the name is reserved', 'Choose another name.', found=name)
