"""Finding: which of one user's memories a question is about, in what order, and why."""
