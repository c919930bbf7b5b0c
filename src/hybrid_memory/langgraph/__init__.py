"""What LangGraph asks of a checkpointer and a store."""
