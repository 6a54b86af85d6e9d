"""Ready-made transformations: trusted code with typed settings, used without writing code."""
