"""Scores, tests and figures -> one page: found, said in sentences, laid out, and written."""
