"""Records as text: tables, Markdown and JUnit XML."""
