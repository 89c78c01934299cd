"""Arithmetic over arrays: grids, histograms, calibrators, weights; it knows numpy and nothing of models."""
