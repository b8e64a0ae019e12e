"""Where manifests are made from: hub, HTTP mirror, S3-compatible storage, OCI artifact, directory."""
