"""Objectives and loops."""
