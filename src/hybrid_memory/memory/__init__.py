"""What a memory is allowed to be, how it is addressed, and what one line says about it."""
