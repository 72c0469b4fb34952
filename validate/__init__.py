"""Is it right: measured and published numbers against simulated ones."""
