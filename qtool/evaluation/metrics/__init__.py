"""Metrics: one row each in `registry`, computed in constant memory."""
