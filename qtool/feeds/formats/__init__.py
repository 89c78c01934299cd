"""The forms of DATA, a reader each."""
