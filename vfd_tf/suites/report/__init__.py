"""The report of suites: tables, statistics and figures of the runs that there are."""
