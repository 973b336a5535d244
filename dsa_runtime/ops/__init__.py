"""The custom operators: what they are (`schema`) and what they compute (`reference`, in numpy)."""
