"""What the boxes of scenes look like in the two formats that every detection toolbox reads."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from mmkd_plugin.datasets.digit_scenes.scene import Scene

CLASSES = tuple('0123456789')


class CocoAnnotations:
    """Collects the scenes of one split for COCO's format: images and boxes are numbered from 1, the category of digit d is d + 1."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, file_name: str, scene: Scene) -> None:
        """Take down one scene. ``area`` is the box's: there are no masks."""
        height, width = scene.image.shape[:2]
        self.images.append(
            dict(id=len(self.images) + 1, file_name=file_name, width=width, height=height)
        )
        for (left, top, right, bottom), label in zip(
            scene.boxes.tolist(), scene.labels.tolist(), strict=True
        ):
            box = [left, top, right - left, bottom - top]
            self.annotations.append(
                dict(
                    id=len(self.annotations)
                    + 1,  # not 0: pycocotools takes an annotation of that number for none
                    image_id=len(self.images),
                    category_id=label + 1,
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=0,
                )
            )

    def document(self, **info: Any) -> dict[str, Any]:
        """The whole annotation file."""
        categories = [
            dict(id=label + 1, name=name, supercategory='digit')
            for label, name in enumerate(CLASSES)
        ]
        return dict(
            info=info, images=self.images, annotations=self.annotations, categories=categories
        )


def voc_annotation(file_name: str, scene: Scene) -> str:
    """One scene in VOC's format.

    The edges of the boxes are counted from 1, the right and bottom ones too: MMDet subtracts 1 from all four, and so reads
    from here what it reads from COCO's format. (VOC's own tools take ``xmax`` for the last pixel: there it is the one after.)
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
        f'<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>'
        f'<bndbox>{bounds}</bndbox></object>\n'
    )
