"""Varies plans and measures what each does; it never pokes at a graph."""
