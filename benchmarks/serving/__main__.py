"""`python -m benchmarks.serving`: see `benchmarks.serving.command`."""

from benchmarks.serving.command import main

if __name__ == "__main__":
    main(prog_name="python -m benchmarks.serving")
