"""Speech as it is read, changed, cut and kept."""
