"""Experiments: one runner (cells × targets × seeds, matched and resumable) and what is built on it."""
