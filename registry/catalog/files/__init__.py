"""The flavor `files`: snapshots of a project, which hold nothing that predicts."""

DISTRIBUTION = "ulora-registry"
