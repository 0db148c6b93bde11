"""The table of compatibility as a page of the documentation."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from experiments.compatibility.rows import TEACHER, Row
from experiments.compatibility.trial import FAILED, METHODS, NOT_PLAIN, TRAINED

_MARKS = {TRAINED: 'yes', TEACHER: 'teacher', FAILED: '**fails**', NOT_PLAIN: '–'}
_PACKAGES = ('mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'torch')


def page(rows: Sequence[Row], command: str) -> str:
    """Return the page, in Markdown.

    Args:
        rows: Rows of all families.
        command: The command that made them.
    """
    found = ', '.join(f'{name} {version_of(name)}' for name in _PACKAGES)
    lines = [
        '# Supported models',
        '',
        'One training step of the smallest config of every stock family, as student and as',
        f'teacher, on a CPU. `{command}` made this page, with {found}.',
        '',
        '- **yes**: the task loss equals that of the plain model, the distillation loss is above',
        '  0, and gradient reaches the student.',
        '- **teacher**: its framework does not train this config, but it teaches a ResNet-18.',
        '- a number: refused before the first update, with the reason below.',
        '- **fails**: anything else. Please report it.',
        '- –: the plain model does not take a step here, for the reason below.',
        '',
        'Hint, AttentionTransfer and IEKD use one tap: `neck[0]` of a detector, or `backbone[-1]`.',
        'If that is a vector, AttentionTransfer and IEKD use the last stage or block of the',
        'backbone. Other taps may work: `python tools/inspect_taps.py CONFIG` lists them.',
        '',
        *_summary(rows),
    ]
    reasons: dict[str, int] = {}
    for host in sorted({row['family'].partition('/')[0] for row in rows}, reverse=True):
        lines += ['', f'## {host}', '', f'| family | config | {" | ".join(METHODS)} |']
        lines.append('|---' * (2 + len(METHODS)) + '|')
        for family in sorted({r['family'] for r in rows if r['family'].startswith(f'{host}/')}):
            own = {row['method']: row for row in rows if row['family'] == family}
            cells = [_cell(own.get(method), reasons) for method in METHODS]
            config = next(iter(own.values()))['config'].partition('/')[2]
            lines.append(f'| {family.partition("/")[2]} | `{config}` | {" | ".join(cells)} |')
    if reasons:
        lines += ['', '## Reasons', '']
        lines += [f'{number}. {_escaped(text)}' for text, number in reasons.items()]
    return '\n'.join(lines) + '\n'


def counts(rows: Sequence[Row]) -> dict[str, Counter[str]]:
    """Return the number of families of each verdict, by method."""
    return {
        method: Counter(row['verdict'] for row in rows if row['method'] == method)
        for method in METHODS
    }


def version_of(package: str) -> str:
    """Return the version of an installed package, or of the fork that provides it."""
    for name in (package, f'onedl-{package}', f'{package}-lite'):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return 'not installed'


def _summary(rows: Sequence[Row]) -> list[str]:
    found: Mapping[str, Counter[str]] = counts(rows)
    verdicts = sorted({verdict for counter in found.values() for verdict in counter})
    return [
        f'| families | {" | ".join(METHODS)} |',
        '|---' * (1 + len(METHODS)) + '|',
        *(
            f'| {verdict} | {" | ".join(str(found[method][verdict]) for method in METHODS)} |'
            for verdict in verdicts
        ),
    ]


def _cell(row: Row | None, reasons: dict[str, int]) -> str:
    if row is None:
        return ''
    mark = _MARKS.get(row['verdict'], '')
    if not row['reason']:
        return mark
    number = reasons.setdefault(_shared(row['reason']), len(reasons) + 1)
    return f'{mark} {number}'.strip()


def _shared(reason: str) -> str:
    """Return a reason without the config and the folders of this machine: many have the same."""
    text = re.sub(r'^\S+\.py: ', '', ' '.join(reason.split()))
    text = re.sub(r'\S*…$', '…', text)  # no half word
    return re.sub(r'/[^"\s]*/site-packages/', '', text)


def _escaped(text: str) -> str:
    return f'`{text.replace("`", chr(39))}`'
