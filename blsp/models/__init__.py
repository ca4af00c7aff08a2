"""Names -> weights: where models come from, and how they are loaded."""
