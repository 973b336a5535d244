"""Evaluation: how close generated frames are to real ones, and whether they obey the actions."""
