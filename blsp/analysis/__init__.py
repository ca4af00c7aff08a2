"""What a model makes of speech, measured and drawn: representations, nearest tokens, quality against data."""
