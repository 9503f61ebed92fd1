"""A version in memory: loading its files, answering images, and checking that it still gives its recorded outputs."""
