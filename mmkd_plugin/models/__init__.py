"""What the registry MODELS builds: distillers, methods, weightings, connectors, losses and backbones."""
