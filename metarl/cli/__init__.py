"""The command line: arguments, printed output, exit codes. `metarl.experiment` does the work."""
