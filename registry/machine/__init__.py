"""The machine at hand: who acts on it, what the working tree is, folders for a while."""
