"""Users' memories: the border they pass, the sessions that hold them, and how they are written and read."""
