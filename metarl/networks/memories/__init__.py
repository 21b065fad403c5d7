"""Memories: causal maps from the steps of a trial to features, behind one protocol."""
