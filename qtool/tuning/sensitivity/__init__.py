"""What each layer costs when it alone is quantised, and when it alone is not."""
