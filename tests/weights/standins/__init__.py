"""Stand-ins of what models come from: a hub, an HTTP mirror, S3-compatible storage, an OCI registry."""
