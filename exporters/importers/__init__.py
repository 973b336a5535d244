"""Weights that others have published, as this project's models. Nothing is ever unpickled."""
