"""Forward passes through a backbone with adapters, by torch or OpenVINO, and the gate that a runtime must pass."""
