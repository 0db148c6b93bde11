"""Transforms that move the content of an image, and whether two pipelines move it alike."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmkd_plugin.errors import ConfigError

#: Beginnings of names of transforms that read, pack or convert.
_NEUTRAL_BEGINNINGS = ('Load', 'Pack', 'Inferencer', 'Collect', 'Wrap')
#: Transforms that leave every object where it is, or resize the whole image without a draw.
_NEUTRAL = {
    *('AutoContrast', 'BEiTMaskGenerator', 'Brightness', 'Color', 'ColorJitter', 'ColorTransform'),
    *('Contrast', 'ConvertImageDtype', 'Corrupt', 'CutOut', 'Cutout', 'Equalize'),
    *('FilterAnnotations', 'FixScaleResize', 'FixShapeResize', 'GaussianBlur', 'Grayscale'),
    *('ImageToTensor', 'Invert', 'Lighting', 'Normalize', 'NumpyToPIL', 'PILToNumpy'),
    *('PILToTensor', 'PhotoMetricDistortion', 'Posterize', 'RandomErasing', 'RandomGrayscale'),
    *('Resize', 'ResizeEdge', 'ResizeShortestEdge', 'Sharpness', 'SimMIMMaskGenerator'),
    *('Solarize', 'SolarizeAdd', 'ToTensor', 'Transpose', 'YOLOXHSVRandomAug'),
}
#: Transforms whose draw does not depend on the size of the image.
_RELATIVE = {
    *('CenterCrop', 'Pad', 'RandomChoiceResize', 'RandomFlip', 'RandomResize', 'Rotate', 'Shear'),
    *('ShearX', 'ShearY', 'Translate', 'TranslateX', 'TranslateY'),
}
#: Those that change the shown area by a fixed number of pixels.
_OF_PIXELS = {'CenterCrop', 'Pad'}
#: Settings that decide resolution and colours, and no place in the image.
_FREE = {
    *('backend', 'fill', 'fill_value', 'interpolation', 'pad_val', 'scale', 'scales'),
    *('seg_pad_val', 'size', 'resize_type', 'resize_cfg', 'resize_kwargs'),
}
_PLAIN = (bool, int, float, str, type(None))


def anchors(transforms: Sequence[Any], own_draws: Sequence[str] = ()) -> list[int]:
    """Return the indices of the transforms that move the content of an image.

    A transform that is not known as harmless counts as one of them.

    Args:
        transforms: The transforms of a pipeline.
        own_draws: Names of further classes that move nothing.

    Example:
        >>> from mmcv.transforms import Normalize, RandomFlip, Resize
        >>> anchors([Resize((8, 8)), RandomFlip(0.5), Normalize([0.0], [1.0])])
        [1]
    """
    return [n for n, one in enumerate(transforms) if not _is_neutral(one, own_draws)]


def name_of(transform: Any) -> str:
    """Return the class of a transform; that of torchvision's inside MMPretrain's wrapper."""
    return type(_inner(transform)).__name__


def is_relative(transform: Any) -> bool:
    """Whether the draw of a transform does not depend on the size of the image."""
    return name_of(transform) in _RELATIVE


def require_same_geometry(
    student: Sequence[Any], view: Sequence[Any], own_draws: Sequence[str] = ()
) -> None:
    """Refuse two pipelines that do not move the content of an image alike.

    Args:
        student: Transforms of the student's pipeline.
        view: Transforms of the view.
        own_draws: See :class:`~mmkd_plugin.views.settings.View`.

    Raises:
        ConfigError: With the transform that differs.
    """
    own = [student[n] for n in anchors(student, own_draws)]
    other = [view[n] for n in anchors(view, own_draws)]
    names, found = [name_of(one) for one in own], [name_of(one) for one in other]
    if names != found:
        raise ConfigError(
            'pipeline',
            'must move the image by the same transforms in the same order as the pipeline of the '
            f'student: {", ".join(names) or "none"}',
            'Write the same ones. Random transforms that move nothing are named under own_draws.',
            found=', '.join(found) or 'none',
        )
    for one, two in zip(own, other, strict=True):
        settings, others = _settings(one), _settings(two)
        for name in sorted(settings.keys() | others.keys()):
            if settings.get(name) != others.get(name):
                raise ConfigError(
                    'pipeline',
                    f'{name_of(one)} must have {name}={settings.get(name)!r}, as in the pipeline '
                    'of the student: it would draw otherwise',
                    found=others.get(name),
                )


def require_same_place(
    transform: Any,
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    others: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    """Refuse a draw in images of two sizes that depends on the size.

    Args:
        transform: The transform of the view.
        sizes: Size of the image before and after it, in the student's pipeline.
        others: The same in the view.

    Raises:
        ConfigError: With the transform and both sizes.
    """
    if sizes == others:
        return
    name = name_of(transform)
    if sizes[0] != others[0] and not is_relative(transform):
        raise ConfigError(
            'pipeline',
            f'{name} draws in pixels, so it must receive images of the size in the pipeline of '
            f'the student, {sizes[0]}',
            'Change the size of the view after its last random crop.',
            found=others[0],
        )
    if name in _OF_PIXELS:
        for before, after, own_before, own_after in zip(*sizes, *others, strict=True):
            if abs(own_after / own_before - after / before) * own_before > 1:
                raise ConfigError(
                    'pipeline',
                    f'{name} must keep the same share of the image as in the pipeline of the '
                    f'student, which makes {sizes[1]} of {sizes[0]}',
                    found=f'{others[1]} of {others[0]}',
                )


def _inner(transform: Any) -> Any:
    wrapped = type(transform).__name__ == 'TorchVisonTransformWrapper'
    return transform.t if wrapped else transform


def _is_neutral(transform: Any, own_draws: Sequence[str]) -> bool:
    name = name_of(transform)
    if name in own_draws or name in _NEUTRAL or name.startswith(_NEUTRAL_BEGINNINGS):
        return True
    if name in ('Compose', 'RandomApply', 'RandomChoice', 'RandomOrder'):
        return all(_is_neutral(one, own_draws) for one in _nested(_inner(transform)))
    return False


def _nested(transform: Any) -> Iterator[Any]:
    waiting = [getattr(transform, 'transforms', ())]
    while waiting:
        one = waiting.pop()
        if isinstance(one, (list, tuple)):
            waiting += one
        elif type(one).__name__ == 'Compose':
            waiting.append(one.transforms)
        else:
            yield one


def _settings(transform: Any) -> dict[str, Any]:
    """Return the plain settings of a transform that decide where the content goes."""
    inner = _inner(transform)
    free = _FREE | ({'crop_size', 'size_divisor'} if name_of(transform) in _OF_PIXELS else set())
    found = {
        name: value
        for name, value in vars(inner).items()
        if name not in free and not name.startswith('_') and _is_plain(value)
    }
    scales = getattr(inner, 'scales', None)
    if isinstance(scales, (list, tuple)):
        found['number of scales'] = len(scales)
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
