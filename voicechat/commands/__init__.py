"""The commands. Each module registers its own, and imports what is heavy only when a command runs."""
