"""Comparisons with peers in the same run: `uv run python -m tests.benchmarks [name ...]`."""
