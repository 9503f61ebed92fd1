"""How long work tells how far it is."""
