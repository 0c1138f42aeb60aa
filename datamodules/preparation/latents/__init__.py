"""From images to a latent store: ``prepare.py task=latents``."""
