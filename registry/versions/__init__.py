"""What a version is: its manifest and weights, its bundle on disk, its name, what it is composed or imported from."""
