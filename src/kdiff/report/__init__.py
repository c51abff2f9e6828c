"""The pictures that runs and comparisons are shown by."""
