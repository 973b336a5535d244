"""The clients of bindings/wire/, built and run against a real server."""
