"""The `hybrid-memory` command."""
