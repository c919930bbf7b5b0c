"""Turning text into vectors: who may be asked to, and what every answer is checked for."""
