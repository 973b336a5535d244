"""bindings/c/: both libraries, the header, the examples."""
