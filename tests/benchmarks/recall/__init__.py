"""How well memories are found, on conversations with questions and the turns that answer them."""
