"""What is trained: objectives, and what they are computed on."""
