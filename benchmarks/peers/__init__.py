"""The rivals: other ways to do what is measured, used as their own documentation says."""
