"""Use of a trained policy without environment and simulator: sessions, predictions, export."""
