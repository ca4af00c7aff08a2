"""Stages that judge: answers, verdicts, representations, and the report of them."""
