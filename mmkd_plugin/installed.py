"""What the plugin stands on must be there: said at import, in one line for each thing that is missing."""

from importlib.util import find_spec

OLDEST_TORCH = (
    2,
    6,
)  # from here torch.load runs no code that a checkpoint brings along, and can be told what else to allow
CLASSIFICATION = "pip install 'mmkd_plugin[classification]'"
DETECTION = "pip install 'mmkd_plugin[detection]'"
MMCV = (
    "pip install 'mmcv-lite>=2.0,<2.2' (enough for mmpretrain) "
    "or, compiled for mmdet, MMCV_WITH_OPS=1 pip install --no-build-isolation 'mmcv>=2.0,<2.2'"
)


def has(name: str) -> bool:
    """Whether the top-level package ``name`` can be imported, without importing it."""
    return find_spec(name) is not None


def require_hosts() -> None:
    """Check for torch, MMEngine, mmcv or mmcv-lite, and at least one of MMPretrain and MMDet; forks with these names are as good.

    Raises:
        ImportError: If one is missing, or torch is too old. One line for each, with the command that installs it.
    """
    lines = [
        f'mmkd_plugin needs {name}, which is not installed: {remedy}'
        for name, remedy in (
            ('torch', f'{CLASSIFICATION} or {DETECTION}'),
            ('mmengine', f'{CLASSIFICATION} or {DETECTION}'),
            ('mmcv', MMCV),
        )
        if not has(name)
    ]
    if not has('mmpretrain') and not has('mmdet'):
        lines.append(
            f'mmkd_plugin needs mmpretrain or mmdet, and neither is installed: {CLASSIFICATION} or {DETECTION}'
        )
    if has('torch') and _torch_version() < OLDEST_TORCH:
        oldest, found = (
            '.'.join(map(str, version)) for version in (OLDEST_TORCH, _torch_version())
        )
        lines.append(
            f'mmkd_plugin needs torch {oldest} or newer, found {found}: {CLASSIFICATION} or {DETECTION}'
        )
    if lines:
        raise ImportError('\n'.join(lines))


def _torch_version() -> tuple[int, int]:
    from torch import __version__

    major, minor = __version__.split('.')[:2]
    return int(major), int(minor)
