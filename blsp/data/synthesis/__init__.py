"""Speech that is made from texts."""
