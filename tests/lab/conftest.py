from __future__ import annotations

import os

import pytest

from metalserve.errors import MetalserveError
from metalserve.lab.api import Lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The lab that is up; `./run test` brings it up."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    lab = Lab()
    try:
        hosts = lab.hosts
    except MetalserveError as error:
        pytest.skip(str(error))
    for host in hosts:
        lab.heal(host)
        if lab.state(host) != "up":
            lab.start(host)
    return lab
