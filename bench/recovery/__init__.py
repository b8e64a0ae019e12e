"""A simulated fleet in recovery: the project's own ladder, conductor and fleet rules against naive policies."""
