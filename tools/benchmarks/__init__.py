"""What tools/benchmark.py measures: one subject a file."""
