"""Pipelines: several models and the loop that runs them until all is said, calibrated and evaluated together."""
