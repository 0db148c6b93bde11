"""Demos: a few trainings that need each other, and the table of what they reached. tools/demo.py is one."""
