"""Whether everything is as it was written: verify versions and documents, repair what is damaged."""
