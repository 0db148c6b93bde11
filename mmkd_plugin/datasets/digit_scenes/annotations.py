"""The boxes of scenes in the two formats that every detection toolbox reads."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from mmkd_plugin.datasets.digit_scenes.scene import Scene

CLASSES = tuple('0123456789')


class CocoAnnotations:
    """Collect the scenes of one split in COCO's format.

    Images and boxes are numbered from 1. The category of digit d is d + 1.

    Attributes:
        images: The entries of the images.
        annotations: The entries of the boxes.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((64, 64, 3), np.uint8)
        >>> scene = Scene(image, boxes=np.array([[10, 12, 25, 40]]), labels=np.array([7]))
        >>> coco = CocoAnnotations()
        >>> coco.add('train_00000.png', scene)
        >>> coco.annotations[0]['bbox'], coco.annotations[0]['category_id']
        ([10, 12, 15, 28], 8)
    """

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, file_name: str, scene: Scene) -> None:
        """Add a scene. The area of an object is that of its box, since there are no masks."""
        height, width = scene.image.shape[:2]
        self.images.append(
            dict(id=len(self.images) + 1, file_name=file_name, width=width, height=height)
        )
        for (left, top, right, bottom), label in zip(
            scene.boxes.tolist(), scene.labels.tolist(), strict=True
        ):
            box = [left, top, right - left, bottom - top]
            # Numbers begin at 1: pycocotools reads annotation 0 as no annotation.
            number = len(self.annotations) + 1
            self.annotations.append(
                dict(
                    id=number,
                    image_id=len(self.images),
                    category_id=label + 1,
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=0,
                )
            )

    def document(self, **info: Any) -> dict[str, Any]:
        """Return the content of the annotation file, with ``info`` in its head."""
        categories = [
            dict(id=label + 1, name=name, supercategory='digit')
            for label, name in enumerate(CLASSES)
        ]
        return dict(
            info=info, images=self.images, annotations=self.annotations, categories=categories
        )


def voc_annotation(file_name: str, scene: Scene) -> str:
    """Return the XML text of a scene in VOC's format.

    The edges of the boxes are counted from 1, the right and bottom ones too. MMDet subtracts 1 from
    all four, and so reads the same boxes from here as from COCO's format. VOC's own tools read
    ``xmax`` as the last pixel; here it is the pixel after the last.
    """
    height, width, depth = scene.image.shape
    objects = ''.join(map(_voc_object, scene.boxes, [CLASSES[label] for label in scene.labels]))
    return (
        f'<annotation>\n<folder>VOC2007</folder>\n<filename>{file_name}</filename>\n'
        f'<size><width>{width}</width><height>{height}</height><depth>{depth}</depth></size>\n'
        f'<segmented>0</segmented>\n{objects}</annotation>\n'
    )


def _voc_object(box: NDArray[Any], name: str) -> str:
    edges: Sequence[int] = (box + 1).tolist()
    bounds = ''.join(
        f'<{key}>{edge}</{key}>'
        for key, edge in zip(('xmin', 'ymin', 'xmax', 'ymax'), edges, strict=True)
    )
    return (
        f'<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>'
        f'<difficult>0</difficult><bndbox>{bounds}</bndbox></object>\n'
    )
