"""Drawings of a report as clean SVG."""
