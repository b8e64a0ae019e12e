"""Runs over a fleet: waves, retries, drift. Pure decisions here; pyinfra is started by `pyinfra_seam.cli_run`."""
