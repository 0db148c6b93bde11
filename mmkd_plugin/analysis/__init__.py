"""Pictures and numbers of what a student has inherited and explored: similarity, activity, relevance, robustness to noise."""
