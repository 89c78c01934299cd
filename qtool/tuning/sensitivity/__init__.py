"""The cost of each layer when only it is quantised, and when only it is not."""
