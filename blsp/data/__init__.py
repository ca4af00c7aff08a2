"""Corpora, manifests, synthetic speech, augmentation and cached features."""
