"""pyinfra runs this file before anything else: metalserve's checks are put in here."""

from metalserve.pyinfra_seam import preflight

preflight.install()
