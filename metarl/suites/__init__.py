"""Suites: declared sets of runs, their processes, their numbers as CSV, and tables of those."""
