"""Calibration of any size: in one go, in shards, by many workers, from where it was interrupted."""
