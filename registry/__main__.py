"""`python -m registry` is the `ulora` command."""

from registry.cli.main import main

if __name__ == "__main__":
    main()
