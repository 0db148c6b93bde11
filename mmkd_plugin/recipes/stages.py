"""The stage that trains a paraphraser before the student."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmkd_plugin.recipes.text import to_text


def paraphraser_stem(stem: str, number: int, count: int) -> str:
    """Return the name of the stage of a pair.

    Example:
        >>> paraphraser_stem('ie_r50_r18', 0, 1), paraphraser_stem('ie_r50_r18', 1, 3)
        ('paraphraser_ie_r50_r18', 'paraphraser1_ie_r50_r18')
    """
    return f'paraphraser{number if count > 1 else ""}_{stem}'


def paraphraser_stage(
    base_path: str, base: Config, teacher: Mapping[str, Any], tap: str, work_dir: str
) -> tuple[str, str]:
    """Return the config of the stage, and the checkpoint that it will write.

    Data and batches are those of the student's config. It trains a tenth of its epochs or
    iterations, at least one, at one learning rate.

    Args:
        base_path: Path of the student's config.
        base: That config.
        teacher: The entry of the teacher.
        tap: Tap of the teacher.
        work_dir: Folder of the stage.
    """
    train = base.get('train_cfg', {})
    by_epoch = train.get('max_iters') is None
    key = 'max_epochs' if by_epoch else 'max_iters'
    length = max(1, int(train.get(key) or 1) // 10)
    model = dict(
        _delete_=True,
        type='mmkd_plugin.ParaphraserTrainer',
        teacher=dict(teacher),
        tap=tap,
        paraphraser=dict(factor_rate=0.5),
    )
    hook = dict(type='CheckpointHook', by_epoch=by_epoch, interval=length)
    changes: dict[str, Any] = dict(
        model=model,
        param_scheduler=None,
        train_cfg={key: length},
        default_hooks=dict(checkpoint=dict(_delete_=True, **hook)),
        custom_hooks=[],
    )
    changes |= {f'{part}_{name}': None for part in ('val', 'test')
                for name in ('cfg', 'dataloader', 'evaluator')}  # fmt: skip
    lines = [f'_base_ = {base_path!r}', '']
    lines += [f'{name} = {to_text(value, used=len(name) + 3)}' for name, value in changes.items()]
    checkpoint = f'{work_dir}/{"epoch" if by_epoch else "iter"}_{length}.pth'
    return '\n'.join(lines) + '\n', checkpoint
