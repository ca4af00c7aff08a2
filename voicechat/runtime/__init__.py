"""What the program needs of the operating system: signals, streams, threads, files and terminals."""
