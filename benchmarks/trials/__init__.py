"""How trials judge versions: false rollbacks and detection, simulated, beside other ways."""
