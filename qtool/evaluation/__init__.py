"""Compares models with the float one they were made from: accuracy, SQNR, agreement, size, latency, gates."""
