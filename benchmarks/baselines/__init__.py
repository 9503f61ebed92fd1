"""The baselines: other ways to do what is measured, used as their documentation says."""
