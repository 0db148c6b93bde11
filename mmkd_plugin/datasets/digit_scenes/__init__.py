"""Scenes of real handwritten digits for detectors, as a COCO data set with a VOC twin."""
