"""The custom operators: what they are (`schema`), what they compute (`reference`, in numpy), and the compiled library
(`csrc`, made by `build`, found by `library`)."""
