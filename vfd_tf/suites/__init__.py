"""Suites: many runs as one table or figure, from the file that lists them to the report."""
