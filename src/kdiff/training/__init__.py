"""Training: configuration, one loop over any objective, averages, checkpoints, run folders."""
