"""The `ulora` command: one module per group of commands; the only place that prints."""
