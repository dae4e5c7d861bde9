"""A run against a committed baseline, or against another run."""
