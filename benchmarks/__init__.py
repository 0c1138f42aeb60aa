"""Benchmarks of a training step and of sampling, against a literal version of the official training step."""
