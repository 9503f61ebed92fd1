"""How trials judge versions, simulated, beside other ways; and what they cost replicas and the guard."""
