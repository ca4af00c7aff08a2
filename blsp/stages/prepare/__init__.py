"""Stages that make data: manifests, sentences, speech, and answers to transcripts."""
