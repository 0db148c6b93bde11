"""The subjects of tools/benchmark.py, one a file."""
