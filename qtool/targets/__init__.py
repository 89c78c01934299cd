"""The tables of what becomes integer on each target, and the conditions that they name."""
