"""The command line: flags, and one module a mode."""
