"""Trainings and evaluations run for a user: found by name, planned, and watched."""
