"""Training and evaluation recipes: thin scripts over blsp."""
