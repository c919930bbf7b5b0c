"""Graphs under every saver, called in both ways: whatever they do, all savers tell the same story."""
