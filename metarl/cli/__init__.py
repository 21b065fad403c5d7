"""The command line: reads arguments, prints, and returns exit codes. The work is done in `metarl.experiment`."""
