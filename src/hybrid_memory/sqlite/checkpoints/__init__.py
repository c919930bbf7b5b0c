"""Checkpoints in `state.db`: rows in, rows out. What the bytes mean is known by the layer above."""
