"""The fast local side: `state.db`, which keeps what threads need, and `cache.db`, which may vanish at any time."""
