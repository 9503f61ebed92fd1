"""What computes a version: torch and OpenVINO, and the gate that a runtime passes before it serves."""
