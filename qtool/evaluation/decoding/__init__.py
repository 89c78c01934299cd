"""Raw outputs of a detector -> the boxes that it finds in each picture."""
