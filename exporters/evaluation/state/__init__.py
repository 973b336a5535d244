"""State read-back: what a probe reads from generated frames, beside what the simulator says."""
