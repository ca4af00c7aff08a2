"""Other projects' weight files -> folders that transformers reads."""
