"""Inversion of images of any size, block by block: passes, block planner, latent store, output files."""
