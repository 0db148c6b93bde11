"""Analysis of trained networks: similarity, activity, relevance, robustness to noise, boxes."""
