"""The samples on which a model differs most from float, as pictures: what both say, side by side."""
