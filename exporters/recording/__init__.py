"""Recording: real environments -> episodes on disk in one documented format, and its readers."""
