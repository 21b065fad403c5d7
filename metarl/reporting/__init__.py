"""Videos, replays, plots and reports of trained runs."""
