"""How good a network is: scores, metrics with errors, baselines, plots."""
