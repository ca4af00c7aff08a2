"""Microphone and files -> utterances."""
