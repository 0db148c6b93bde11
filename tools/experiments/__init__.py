"""Studies and demos of this repository, run by tools/study.py and tools/demo.py. Not installed."""
