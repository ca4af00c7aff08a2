"""What a stage will cost, found out without doing it: parameters, steps, memory and time."""
