"""What is trained: each task has its samples, its loss and what it leaves."""
