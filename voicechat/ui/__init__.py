"""How a session looks: each view is fed by events only."""
