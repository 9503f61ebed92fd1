"""What is kept: notes on versions, forgetting them, deleting what nothing refers to, copies in other stores."""
