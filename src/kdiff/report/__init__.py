"""Pictures, texts and HTML pages that show runs, comparisons, sweeps and estimates."""
