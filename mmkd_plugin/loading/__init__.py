"""From a config and a file to a network, and back."""
