"""Model weights: manifests and staging."""
