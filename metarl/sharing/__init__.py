"""What leaves a run: exported and published policies, and data sets of trials."""
