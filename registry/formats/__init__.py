"""What is written down: canonical JSON, and documents whose parsers take nothing they do not know."""
