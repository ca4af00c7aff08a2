"""What a stage would cost, before it runs."""
