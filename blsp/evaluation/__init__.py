"""How good it is: metrics and the text forms they compare."""
