"""Wan2.1's causal video autoencoder in streaming form: each pass is a function of a chunk and of a state."""
