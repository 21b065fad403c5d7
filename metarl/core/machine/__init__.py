"""What touches the machine: files, memory, threads and processes."""
