"""Wan2.1's video transformer as a causal generator: chunks of latent frames, each seeing those before it."""
