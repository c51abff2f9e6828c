"""Training: one loop for any objective, the plan of a run's cost, starting weights, autoencoders and encoding to latents."""
