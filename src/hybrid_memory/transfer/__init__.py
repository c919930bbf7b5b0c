"""Checkpoints from and to files of langgraph-checkpoint-sqlite."""
