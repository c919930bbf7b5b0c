"""Entities out of what tools return, without a language model: pure functions from data to entities and relations."""
