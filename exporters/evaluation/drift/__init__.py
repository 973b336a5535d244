"""Free play: thousands of ticks, and whether they still look and answer like the world."""
