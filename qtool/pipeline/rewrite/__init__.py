"""Does what a plan says to the prepared graph; no policy."""
