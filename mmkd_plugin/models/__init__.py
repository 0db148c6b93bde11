"""Parts that MODELS builds: distillers, methods, weightings, connectors, losses, backbones."""
