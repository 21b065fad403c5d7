"""Worker processes as the system sees them: begin, end, output, shared memory and usage."""
