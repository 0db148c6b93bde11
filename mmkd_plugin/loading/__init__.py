"""Build networks from configs, load their weights, and export what a run trained."""
