"""Parts of a run that cannot be replayed, found by their names before the first step."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.utils.data import IterableDataset

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import NetworkOutput

#: Attributes in which transforms keep results of earlier samples.
_CACHES = ('results_cache', 'cached_results')
#: Batch augmentations that draw nothing: an image becomes the same in every batch.
_DETERMINISTIC = ('BatchFixedSizePad', 'BatchResize')
#: Hooks of the hosts that exchange the transforms during training.
_SWITCHES = ('PipelineSwitchHook', 'SwitchRecipeHook', 'YOLOXModeSwitchHook')
#: Attributes under which wrappers of data sets hold others, and transforms hold transforms.
_NESTED = ('dataset', 'datasets', 'pipeline', 'transforms', 'transform', 'branch_pipelines')


def refuse_dataset(dataset: Any) -> None:
    """Refuse a data set that has no fixed length, or a transform that keeps earlier results.

    Args:
        dataset: The data set below the :class:`~mmkd_plugin.replay.dataset.ReplayedDataset`.

    Raises:
        ConfigError: With the name of the class.
    """
    name = type(dataset).__name__
    fixed = hasattr(type(dataset), '__len__') and hasattr(type(dataset), '__getitem__')
    if isinstance(dataset, IterableDataset) or not fixed:
        raise ConfigError(
            'dataset',
            'must have a length and be read by index, so that its views can be numbered',
            'Give a data set that is neither iterable nor infinite; for an iteration-based run '
            'the sampler repeats it: ReplaySampler with infinite=True.',
            found=name,
        )
    for part in transforms_of(dataset):
        part_name = type(part).__name__
        keeps = [key for key in _CACHES if isinstance(_own(part).get(key), (list, dict, deque))]
        if keeps or part_name.startswith('Cached'):
            raise ConfigError(
                'dataset.pipeline',
                'cannot be replayed: the transform mixes in results of earlier samples',
                f'Use {part_name.removeprefix("Cached")} inside a MultiImageMixDataset, which '
                'fetches the other images anew.'
                if part_name in ('CachedMosaic', 'CachedMixUp')
                else 'Leave the transform out.',
                found=part_name,
            )


def transforms_of(part: Any, known: set[int] | None = None) -> Iterator[Any]:
    """Yield the data sets and transforms inside a data set, each once, outer ones first."""
    known = set() if known is None else known
    if id(part) in known or isinstance(part, (str, bytes, int, float, type(None))):
        return
    known.add(id(part))
    if isinstance(part, Mapping):
        inner: Iterable[Any] = part.values()
    elif isinstance(part, (list, tuple, nn.ModuleList)):
        inner = part
    else:
        yield part
        inner = [value for key, value in _own(part).items() if key in _NESTED]
    for one in inner:
        yield from transforms_of(one, known)


def refuse_batch_augments(preprocessor: nn.Module) -> None:
    """Refuse augmentations of whole batches: what they make of an image depends on the batch.

    Args:
        preprocessor: The data preprocessor of the run.

    Raises:
        ConfigError: With the names of the augmentations.
    """
    found: list[Any] = []
    for module in preprocessor.modules():
        augments = getattr(module, 'batch_augments', None)
        inner = getattr(augments, 'augments', augments)  # MMPretrain's RandomBatchAugment
        found += inner if isinstance(inner, (list, tuple, nn.ModuleList)) else [inner]
    names = [type(one).__name__ for one in found if one is not None]
    names = [name for name in dict.fromkeys(names) if name not in _DETERMINISTIC]
    if names:
        raise ConfigError(
            'data_preprocessor.batch_augments',
            'cannot be replayed: its result depends on the other images of the batch',
            'Leave them out, or train without replay.',
            found=', '.join(names),
        )


def refuse_switches(hooks: Iterable[Any]) -> None:
    """Refuse hooks that exchange the transforms during training.

    Args:
        hooks: The hooks of the Runner.

    Raises:
        ConfigError: With the name of the hook.
    """
    for hook in hooks:
        names = {kind.__name__ for kind in type(hook).__mro__} & set(_SWITCHES)
        if names:
            raise ConfigError(
                'custom_hooks',
                'must not change the transforms during training: a view would have two images',
                'Leave the hook out, or train the two parts as two runs with two caches.',
                found=min(names),
            )


def refuse_shared(output: NetworkOutput) -> None:
    """Refuse class scores at locations that the student decides.

    Raises:
        ConfigError: If they are at regions of a two-stage detector, or at the queries of a decoder.
    """
    scores = output.scores
    if scores is None or not (scores.rois or scores.queries):
        return
    what = 'regions of the student' if scores.rois else 'queries that all networks share'
    raise ConfigError(
        'replay',
        f'cannot store class scores at {what}: they change while the student learns',
        'Leave replay out of this teacher, or request features alone.',
        found=str(scores),
    )


def _own(part: Any) -> Mapping[str, Any]:
    return getattr(part, '__dict__', {})
