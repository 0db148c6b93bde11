"""Scenes of real handwritten digits for detectors, written once as a COCO data set with a VOC twin."""
