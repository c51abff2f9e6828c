"""Comparisons of many runs: the runner, comparisons of targets, sweeps over samplers, estimates, paired statistics."""
