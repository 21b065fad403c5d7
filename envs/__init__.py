"""Task distributions and batched robot environments: NumPy and MuJoCo, no torch and no metarl."""
