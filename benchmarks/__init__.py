"""Measurements of what a training step and its parts cost."""
