"""The forms of DATA, with a reader for each."""
