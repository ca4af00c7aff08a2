"""Texts -> scores: what both training and evaluation count."""
