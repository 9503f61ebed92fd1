"""Answer many files with one version, in parts that are written once: what `ulora predict` does."""
