"""What finds words and writes answers: searches, caches, conversations."""
