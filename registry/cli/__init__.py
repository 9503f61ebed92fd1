"""The `ulora` command: a module for each command, of the same name. Only this package prints."""
