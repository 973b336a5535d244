"""The training side of DSA Runtime: everything that turns a real environment into a world package."""
