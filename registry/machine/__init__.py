"""This machine: who acts on it, its git commit and libraries, temporary folders."""
