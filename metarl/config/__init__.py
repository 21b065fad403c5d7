"""Settings of a run: the dataclasses, and the parser of flags and YAML files."""
