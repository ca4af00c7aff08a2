"""A conversation: its turns, what is kept of it, and what drives it."""
