"""How good samples are: distances between sets, copies of training data, and the exact denoiser's floor."""
