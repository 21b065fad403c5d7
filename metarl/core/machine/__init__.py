"""Files, memory, threads and processes: all that touches the machine."""
