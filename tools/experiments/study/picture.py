"""Draw a study: a point for each seed, and the paired difference of each arm to the baseline."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

from experiments.study.compare import Row
from experiments.study.plan import Study

mpl.use('Agg')
from matplotlib import pyplot as plt


def draw(study: Study, tables: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draw scores on the left, differences with intervals on the right, a row for each setting."""
    heights = [len(rows) for rows in tables.values()]
    figure, panels = plt.subplots(
        len(tables),
        2,
        figsize=(10, 1.1 * len(tables) + 0.33 * sum(heights)),
        squeeze=False,
        sharex='col',
        gridspec_kw={'height_ratios': heights},
        layout='constrained',
    )
    for (scores, differences), (setting, rows) in zip(panels, tables.items(), strict=True):
        for height, row in enumerate(rows):
            is_baseline = row.arm == study.baseline_of(setting)
            scores.plot(list(row.scores.values()), [height] * len(row.scores), '.', color='0.7')
            scores.plot(row.mean, height, 'D' if is_baseline else 'o', color='black')
            if row.difference:
                low, mean, high = row.difference.low, row.difference.mean, row.difference.high
                color = 'C0' if row.difference.clear else '0.5'
                differences.plot([low, high], [height, height], color=color)
                differences.plot(mean, height, 'o', color=color)
        differences.axvline(0, color='black', linewidth=0.8)
        scores.set_yticks(range(len(rows)), [row.arm for row in rows])
        differences.set_yticks(range(len(rows)), [''] * len(rows))
        for panel in (scores, differences):
            panel.set_ylim(len(rows) - 0.5, -0.5)
            panel.grid(axis='x', alpha=0.3)
            panel.spines[['top', 'right']].set_visible(False)
        scores.set_title(setting, loc='left', fontweight='bold')
        differences.set_title(f'minus {study.baseline_of(setting)}', loc='left')
    panels[-1][0].set_xlabel(f'test {metric_of(study)}: seeds, and their mean')
    panels[-1][1].set_xlabel('mean and 95% interval')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def metric_of(study: Study, metric: str = '') -> str:
    """Return a metric, by default the study's, as tables and pictures show it."""
    name = metric or study.metric
    return name if study.scale == 1 else f'{study.scale:g} · {name}'
