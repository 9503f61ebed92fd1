"""`python -m benchmarks.trials`: see `benchmarks.trials.command`."""

from benchmarks.trials.command import main

if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials")
