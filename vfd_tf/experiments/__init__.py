"""Runs that can be repeated: what decides a run, its directory, the runner."""
