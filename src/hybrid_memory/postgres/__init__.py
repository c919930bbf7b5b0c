"""The durable truth: connections, schema and the embedded server."""
