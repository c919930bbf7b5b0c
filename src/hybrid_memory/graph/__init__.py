"""One user's nodes and edges in the process, kept in step with Postgres by deltas and read through snapshots."""
