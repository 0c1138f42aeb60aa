"""Benchmarks: what a training step and a sample cost, against a literal version of the official step."""
