"""Work in several threads at once."""
