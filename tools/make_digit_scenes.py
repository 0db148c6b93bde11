"""Write the scenes of DigitScenes before their first use, for data sets that read them by path.

python tools/make_digit_scenes.py data/digit_scenes
python tools/make_digit_scenes.py data/few --scenes 200 50 50 --image-size 128
"""

import argparse

from mmkd_plugin.datasets.digit_scenes.files import write_scenes
from mmkd_plugin.datasets.digit_scenes.recipe import COUNTS, SceneRecipe
from mmkd_plugin.datasets.splits import SPLITS


def main() -> None:
    """Write the scenes, unless they exist."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'root', nargs='?', default='data/digit_scenes', help='folder of the data set (%(default)s)'
    )
    parser.add_argument(
        '--scenes',
        type=int,
        nargs=3,
        default=list(COUNTS.values()),
        metavar=tuple(map(str.upper, SPLITS)),
    )
    parser.add_argument(
        '--image-size', type=int, default=96, help='side of the pictures in pixels (%(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the scenes (%(default)s)')
    parser.add_argument(
        '--overwrite', action='store_true', help='delete scenes of other options in this folder'
    )
    args = parser.parse_args()
    recipe = SceneRecipe(dict(zip(SPLITS, args.scenes, strict=True)), args.image_size, args.seed)
    written = write_scenes(args.root, recipe, args.overwrite)
    print(f'{args.root}: {"written" if written else "exists already"}, recipe {recipe.sha256[:12]}')


if __name__ == '__main__':
    main()
