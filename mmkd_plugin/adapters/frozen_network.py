"""A frozen network that is observed at each step, at least cost.

It keeps its modules, parameters and hooks. Only while it runs, a convolution that a BatchNorm
follows has the weights of both, and the BatchNorm passes its input on. Layers that reach nothing
that is read return zeros or their input.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from mmengine.logging import MessageHub, print_log
from torch import Tensor, nn

from mmkd_plugin.adapters.compat import ClassMap
from mmkd_plugin.adapters.dry_run import Shape
from mmkd_plugin.adapters.fused_pairs import refresh
from mmkd_plugin.adapters.fusion import FastForm, find_fast_form
from mmkd_plugin.adapters.swaps import compiled, on_device, weights_on
from mmkd_plugin.adapters.tapped_model import TappedModel, outside_graphs
from mmkd_plugin.adapters.unused import filled
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import NetworkOutput

_PRECISIONS = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}


class FrozenNetwork(TappedModel):
    """A network that does not learn.

    Args:
        model: The network, frozen and in eval mode.
        key: Its config key, for messages.
        name: Its name in logs.
        class_map: For each class of the student the network's index of it.
        fast: Whether BatchNorm is fused and maps are in channels_last, where the outputs of a
            trial differ by at most 1e-5 of the largest value.
        precision: ``'fp32'``, ``'fp16'`` or ``'bf16'``, whatever the precision of the run; None for
            that of the run. Outputs are float32.
        compile: Whether the modules between the taps run under ``torch.compile``, or its
            arguments.
        offload: Whether the weights are in host memory while the network is idle.

    Raises:
        ConfigError: If one of them has another value.
    """

    def __init__(
        self,
        model: nn.Module,
        key: str,
        name: str,
        class_map: ClassMap,
        fast: bool = True,
        precision: str | None = None,
        compile: bool | Mapping[str, Any] = False,
        offload: bool = False,
    ) -> None:
        super().__init__(model, key)
        for option, value in (('fast', fast), ('offload', offload)):
            if not isinstance(value, bool):
                raise ConfigError(f'{key}.{option}', 'must be True or False', found=value)
        if not isinstance(compile, (bool, Mapping)):
            problem = 'must be True, False or the arguments of torch.compile'
            raise ConfigError(f'{key}.compile', problem, found=compile)
        if precision is not None and precision not in _PRECISIONS:
            names = ', '.join(_PRECISIONS)
            raise ConfigError(f'{key}.precision', f'must be one of {names}', found=precision)
        self.name = name
        self.class_map = class_map
        self.offload = offload
        self._dtype = None if precision is None else _PRECISIONS[precision]
        self._compile = dict(compile) if isinstance(compile, Mapping) else {} if compile else None
        self._compiled: dict[nn.Module, Any] = {}
        self._may_be_fast = fast
        #: The faster form; None before :meth:`find_fast_form`, or if that is switched off.
        self.fast_form: FastForm | None = None
        self._extremes: tuple[Tensor, tuple[str, ...], int | None] | None = None

    def find_fast_form(self, shape: Shape) -> None:
        """Measure which fast form has the outputs of the plain one.

        Args:
            shape: (channels, height, width) that the network accepts.
        """
        if not self._may_be_fast:
            return
        form = self.fast_form = find_fast_form(self, shape, self._in_form)
        if form.refusal:
            fused = f'{len(form.pairs)} convolutions have their BatchNorm inside'
            print_log(f'Teacher {self.name}: {form.refusal}; {fused}.', logger='current')

    @torch.no_grad()
    def observe(
        self, inputs: Any, rois: Sequence[Tensor] = (), data_samples: Any = None
    ) -> NetworkOutput:
        """Run on a batch at least cost, without gradients; see :meth:`TappedModel.observe`.

        Raises:
            ConfigError: If an output is NaN or infinite. On a GPU the next call raises it, so that
                no step waits.
        """
        output = self.computed(inputs, rois, data_samples)
        return output if self.class_map.indices is None else self.class_map(output)

    def computed(self, inputs: Any, rois: Sequence[Tensor], data_samples: Any) -> NetworkOutput:
        """Return the outputs in the network's own classes."""
        self._follow(inputs.device)
        with self._running(inputs) as images:
            output = super().observe(images, rois, data_samples)
        output = self._in_plain_form(output)
        self._require_finite(output)
        return output

    def require_finite_now(self) -> None:
        """Refuse NaN and infinite outputs of the last call without waiting for the next."""
        if self._extremes is not None:
            pending, self._extremes = self._extremes, None
            self._judge(*pending)

    def _follow(self, device: torch.device) -> None:
        if not self.offload and next(self.model.parameters()).device != device:
            self.model.to(device)
        if self.model.training:  # a hook or a user called train() on it
            self.model.eval()

    @contextmanager
    def _running(self, inputs: Tensor) -> Iterator[Tensor]:
        if torch.compiler.is_compiling():  # the Runner compiles the whole step
            yield inputs
            return
        self._update_fast_form(inputs.device)
        form = self.fast_form
        with self.placed(inputs.device), self.autocast(inputs.device), self._compiling():
            if form is None or not isinstance(inputs, Tensor) or inputs.ndim != 4:
                yield inputs
                return
            with self._in_form(form, inputs) as images:
                yield images

    def _update_fast_form(self, device: torch.device) -> None:
        form = self.fast_form
        if form is None:
            return
        moved = form.device != device
        if moved:
            with self.placed(device):
                self.find_fast_form(form.shape)
        for pair in (self.fast_form or form).pairs:
            # The trial fused copies on the device: fused weights of an idle network leave it too.
            cast = pair.weight.dtype != pair.conv.weight.dtype  # by double() or half(), say
            outdated = cast or pair.version != sum(tensor._version for tensor in pair.sources)
            if outdated or (moved and self.offload):
                refresh(pair)

    @contextmanager
    def _in_form(self, form: FastForm, inputs: Tensor) -> Iterator[Tensor]:
        tapped, device = self.tapped_paths, inputs.device
        pairs = [
            pair
            for pair in form.pairs
            # A hook that a user registered later reads what the layers compute.
            if not pair.paths & tapped and self._is_bare(pair.conv) and self._is_bare(pair.norm)
        ]
        unused = form.unused if form.read == self.readings else []
        unused = [layer for layer in unused if self._is_bare(layer)]
        own = [dict(pair.conv._parameters) for pair in pairs]
        contiguous = [module for module in form.contiguous if 'forward' not in vars(module)]
        try:
            for pair in pairs:
                weight, bias = pair.weight, pair.bias
                if weight.device != device:
                    weight, bias = on_device(weight, device), on_device(bias, device)
                    if not self.offload:
                        pair.weight, pair.bias = weight, bias
                pair.conv._parameters.update(weight=weight, bias=bias)
                pair.norm.forward = _identity
            for layer in unused:
                if form.fill:  # a trial
                    layer.forward = partial(filled, layer, form.fill)
                else:
                    convolves = isinstance(layer, nn.Conv2d)
                    layer.forward = partial(_zeros, layer) if convolves else _identity
            for module in contiguous:
                module.forward = partial(_contiguous, module.forward)
            if form.channels_last:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            yield inputs
        finally:
            for pair, parameters in zip(pairs, own, strict=True):
                pair.conv._parameters.update(parameters)
                vars(pair.norm).pop('forward', None)
            for layer in (*unused, *contiguous):
                vars(layer).pop('forward', None)

    def _is_bare(self, module: nn.Module) -> bool:
        """Whether a module has no hooks, and no forward but that of its class, or compiled."""
        hooked = module._forward_hooks or module._forward_pre_hooks
        return not hooked and vars(module).get('forward') in (None, self._compiled.get(module))

    def _in_plain_form(self, output: NetworkOutput) -> NetworkOutput:
        if self._dtype is not None:
            output = output.float()
        if self.fast_form is None or not self.fast_form.channels_last:
            return output
        # Losses add up in the order of the memory: a store would give another last bit.
        features = {tap: value.contiguous() for tap, value in output.features.items()}
        return replace(output, features=features)

    def placed(self, device: torch.device) -> AbstractContextManager[None]:
        """Have the weights on a device, in a ``with`` statement.

        With ``offload`` those in host memory stay there, and copies run.
        """
        host = not self.offload or device.type == 'cpu'
        return nullcontext() if host else weights_on(self.model, device)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Compute in its own precision, in a ``with`` statement."""
        if self._dtype is None:
            return nullcontext()
        full = self._dtype is torch.float32
        return torch.autocast(device.type, None if full else self._dtype, enabled=not full)

    def _compiling(self) -> AbstractContextManager[None]:
        if self._compile is None:
            return nullcontext()
        return compiled(self.model, self.tapped_paths, self._compile, self._compiled)

    @outside_graphs  # its result decides whether training goes on
    def _require_finite(self, output: NetworkOutput) -> None:
        """Refuse NaN and infinite outputs. A loss scaler would skip the step in silence."""
        self.require_finite_now()  # of the step before, on a GPU
        tensors = {name: value for name, value in output.tensors().items() if value.numel()}
        if not tensors:
            return
        # The smallest and the largest value are NaN if one is: one pass, and no mask.
        found = torch.stack([torch.stack(value.aminmax()).float() for value in tensors.values()])
        step = MessageHub.get_current_instance().get_info('iter', None)
        if found.device.type == 'cpu':
            self._judge(found, tuple(tensors), step)
        else:
            self._extremes = found, tuple(tensors), step

    def _judge(self, found: Tensor, names: tuple[str, ...], step: int | None) -> None:
        finite = found.isfinite().all(dim=1).tolist()
        if all(finite):
            return
        raise ConfigError(
            self.key,
            'its outputs are NaN or infinite' + ('' if step is None else f' at step {step + 1}'),
            "Look at its checkpoint and at the images. If it runs in fp16, write precision='bf16' "
            "or precision='fp32'.",
            found=', '.join(n for n, is_finite in zip(names, finite, strict=True) if not is_finite),
        )


def _contiguous(forward: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
    inputs = inputs.contiguous() if isinstance(inputs, Tensor) else inputs
    return forward(inputs, *args, **kwargs)


def _identity(value: Tensor) -> Tensor:
    return value


def _zeros(conv: Any, inputs: Tensor) -> Tensor:
    sides = []
    for axis in (0, 1):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
        padded = inputs.shape[axis - 2] + 2 * int(conv.padding[axis])
        sides.append((padded - reach) // conv.stride[axis] + 1)
    return inputs.new_zeros((*inputs.shape[:-3], conv.out_channels, *sides))
