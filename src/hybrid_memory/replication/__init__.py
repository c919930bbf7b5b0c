"""Keeping Postgres and this process in step."""
