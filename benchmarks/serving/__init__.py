"""How a replica serves, measured from other processes over loopback: `python -m benchmarks.serving`."""
