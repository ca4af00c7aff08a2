"""Stages that train: the LLM on instructions, the adapter on transcripts and answers."""
