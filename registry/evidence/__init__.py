"""Evidence, policy and gates: what was measured, what is asked, and what follows."""
