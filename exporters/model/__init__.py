"""The models of a neural world: autoencoder, causal diffusion transformer, confidence head (torch)."""
