"""Host data keys that belong to pyinfra and not to metalserve."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def connector_keys() -> frozenset[str]:
    """Return the data keys pyinfra reads itself: those of its connectors and its global arguments.

    They are taken from the installed pyinfra, so that its next version needs no list of ours.
    """
    from pyinfra.api.arguments import all_global_arguments
    from pyinfra.api.connectors import get_all_connectors

    keys = {name for name, _ in all_global_arguments()}
    connectors: dict[str, Any] = get_all_connectors()  # type: ignore[no-untyped-call]  # pyinfra leaves it untyped
    for connector in connectors.values():
        keys |= set(connector.data_cls.__annotations__)
    # Set on a host by the connector itself, and declared nowhere.
    keys |= {"chroot_directory", "docker_container_id"}
    # "name" names an operation; as a host data key it is a misplaced setting (model.name).
    return frozenset(keys - {"name"})
