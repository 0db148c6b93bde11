"""CKA as heat map."""

import torch
from matplotlib.figure import Figure

from mmkd_plugin.analysis.similarity import Similarity

#: In more rows than this numbers cannot be read.
MOST_ROWS = 40


def draw_similarity(found: Similarity) -> Figure:
    """Draw all layers against all, from 0 to 1, with lines between networks."""
    count = len(found.names)
    side = 2.5 + 0.34 * count
    figure = Figure(figsize=(side + 1, side), dpi=130, layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(found.values, cmap='viridis', vmin=0.0, vmax=1.0)
    labels = [f'{network}: {layer}' for network, layer in found.names]
    axes.set_xticks(range(count), labels, rotation=90)
    axes.set_yticks(range(count), labels)
    for place in range(1, count):
        if found.names[place][0] != found.names[place - 1][0]:
            axes.axvline(place - 0.5, color='white', linewidth=2)
            axes.axhline(place - 0.5, color='white', linewidth=2)
    if count <= MOST_ROWS:
        for row in range(count):
            for column in range(count):
                value = float(found.values[row, column])
                ink = 'black' if value > 0.6 else 'white'
                axes.text(
                    column, row, f'{value:.2f}', ha='center', va='center', color=ink, fontsize=6.5
                )
    rows, columns = torch.tril_indices(count, count, offset=-1)
    pairs = found.chance[rows, columns]
    chance = (
        f'; of unrelated images {pairs.mean():.2f}, at most {pairs.max():.2f}' if len(pairs) else ''
    )
    axes.set_title(f'linear CKA over {found.images} images{chance}', loc='left', fontsize=10)
    figure.colorbar(image, ax=axes, label='linear CKA', shrink=0.6)
    return figure
