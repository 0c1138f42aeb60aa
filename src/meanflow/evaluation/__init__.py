"""Scoring a trained model, or images of any origin, under a named protocol."""
