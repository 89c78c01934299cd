"""The ground that everything stands on: errors, files, progress, state, and the signature of a model."""
