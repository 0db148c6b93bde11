"""Demos: a few trainings that depend on each other, and a table of their results."""
