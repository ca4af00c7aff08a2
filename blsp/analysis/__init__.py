"""What a model makes of speech, measured: representations, nearest tokens, quality against data."""
