"""A conformance suite for LangGraph's stores: what an application may rely on, whichever store it is given.

    pytest --pyargs hybrid_memory.testing --store my_package.stores:my_store

`my_store` is called once, without arguments or, if it takes `index`, with a configuration whose embedder is part of the
suite; it returns a store, or a context manager of one. Tests keep to a namespace of their own, so the store need not be
empty. `--store-report FILE` writes who passed what as JSON.
"""
