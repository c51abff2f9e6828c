"""Run folders: how they are written and read back, with checkpoints, metrics, averaged weights and generated samples."""
