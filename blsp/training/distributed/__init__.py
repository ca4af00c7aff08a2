"""Training in several processes and on several devices."""
