"""Orders to install a template on one machine: a file each, one permission to write each, ever.

A machine that boots from the network may be wiped only when somebody has ordered just that, for that machine, lately,
and only once: some BMCs boot from the network for ever after they were told to do it once.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from metalserve.errors import MetalserveError
from metalserve.report.writing import write_whole
from metalserve.templates.machine_identity import Identity, difference
from metalserve.templates.order import LIFE, Check, Disk, Order, Refused, State, Status, Target, plain, utc_now, why_not


class Orders:
    """The orders below a directory, `NODE.json` each. Safe for several threads and processes.

    Args:
        directory: made when it is not there, readable by its owner only, since orders hold tokens.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def place(
        self,
        node: str,
        *,
        identity: Identity,
        template: str,
        build: str,
        disk_serial: str,
        life: timedelta = LIFE,
        replace: bool = False,
        now: datetime | None = None,
    ) -> Order:
        """Place an order and return it.

        Args:
            node: the node's name.
            identity: which machine; must hold a serial number, UUID or MAC address.
            template: name of the template.
            build: its build, named in full.
            disk_serial: serial number of the disk to be written.
            life: how long the order waits.
            replace: also when an order for the node waits or is being carried out.
            now: the time, for tests.

        Raises:
            MetalserveError: names nothing, an order is under way, or another node's order is for the same machine.
        """
        if not identity.known:
            raise MetalserveError(
                "the order does not say which machine: no serial number, UUID or MAC address that tells one",
                where=node,
                remedy="give the system's serial number, as its BMC shows it",
            )
        at = now or utc_now()
        with self._locked():
            self._refuse_second(node, identity, at, replace=replace)
            try:
                order = Order(
                    number=secrets.token_hex(8),
                    node=node,
                    identity=identity,
                    template=template,
                    build=build,
                    disk=Target(serial=disk_serial),
                    token=secrets.token_urlsafe(24),
                    ordered_at=at,
                    expires_at=at + life,
                )
            except ValidationError as error:
                first = error.errors()[0]
                raise MetalserveError(f"{first['loc'][0]}: {first['msg']}", where=f"order for {node!r}") from None
            self._write(order)
        return order

    def _refuse_second(self, node: str, identity: Identity, now: datetime, *, replace: bool) -> None:
        for other in self._all():
            if other.node == node:
                if replace or not (other.waits(now) or other.state == "permitted"):
                    continue
                raise MetalserveError(
                    f"an order of {other.ordered_at:%Y-%m-%d %H:%M} UTC is under way ({other.state})",
                    where=node,
                    remedy="wait for it, or place the new one with replace",
                )
            if other.waits(now) and (
                difference(other.identity, identity) is None or difference(identity, other.identity) is None
            ):
                raise MetalserveError(
                    f"the order for {other.node} is for the same machine ({identity})",
                    where=node,
                    remedy=f"see which of them is wrong; withdraw {other.node}'s",
                )

    def get(self, node: str) -> Order | None:
        """Return the node's order, or None.

        Raises:
            MetalserveError: its file is no order.
        """
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", node) is None:
            return None
        try:
            return _read(self._path(node))
        except FileNotFoundError:
            return None

    def all(self) -> list[Order]:
        """Return all orders, by node.

        Raises:
            MetalserveError: a file is no order.
        """
        return list(self._all())

    def withdraw(self, node: str) -> bool:
        """Remove an order that waits; return whether there was one.

        Raises:
            MetalserveError: it is being carried out.
        """
        with self._locked():
            found = self.get(node)
            if found is None or found.state != "ordered":
                if found is not None and found.state == "permitted":
                    raise MetalserveError("its order is being carried out", where=node, remedy="wait for its result")
                return False
            self._path(node).unlink()
            return True

    def for_machine(self, told: Identity, *, now: datetime | None = None, untold: bool = False) -> Order:
        """Return the one order that waits for this machine.

        Args:
            told: the machine.
            now: the time, for tests.
            untold: a serial number that the machine cannot tell is not held against it. Only for what it boots: before
                anything is written, the installer tells all of it.

        Raises:
            Refused: none does, or more than one.
        """
        at = now or utc_now()
        mine = self._of(told, untold=untold)
        waiting = [order for order in mine if order.waits(at)]
        if len(waiting) > 1:
            nodes = ", ".join(order.node for order in waiting)
            raise Refused(f"more than one order is for this machine: {nodes}", where=str(told))
        if waiting:
            return waiting[0]
        if not mine:
            raise Refused("no order for this machine", where=str(told))
        last = max(mine, key=lambda order: order.ordered_at)
        raise Refused(why_not(last), where=last.node)

    def last_for(self, told: Identity) -> Order | None:
        """Return the latest order for this machine, whatever became of it, or None; an untold serial may be any."""
        return max(self._of(told, untold=True), key=lambda order: order.ordered_at, default=None)

    def _of(self, told: Identity, *, untold: bool) -> list[Order]:
        free = {"serial": None} if untold and told.serial is None else {}
        return [each for each in self._all() if difference(each.identity.model_copy(update=free), told) is None]

    def permit(
        self, told: Identity, disks: Sequence[Disk], *, check: Check | None = None, now: datetime | None = None
    ) -> Order:
        """Give the one permission of the order that waits for this machine, and return it.

        A refusal uses no permission up: what was wrong can be put right, and the machine asks again.

        Args:
            told: the machine.
            disks: its disks.
            check: raises when the order cannot be carried out on the disk; asked before the permission counts.
            now: the time, for tests.

        Raises:
            Refused: no order waits for the machine, or its disk is not there, or not the only one of that serial.
            MetalserveError: what `check` raises.
        """
        at = now or utc_now()
        with self._locked():
            order = self.for_machine(told, now=at)
            named = [disk for disk in disks if disk.serial.strip() == order.disk.serial]
            if len(named) != 1:
                there = ", ".join(f"{d.name or '?'} {d.serial or 'without serial'}" for d in disks) or "none"
                how = "is not in this machine" if not named else f"is the serial of {len(named)} disks"
                raise self._refused(order, f"disk {order.disk.serial} {how}; it has: {there}")
            if check is not None:
                try:
                    check(order, named[0])
                except MetalserveError as error:
                    raise self._refused(order, str(error)) from error
            permitted = order.model_copy(
                update={"state": "permitted", "permitted_at": at, "words": f"writing to {named[0].name}"}
            )
            self._write(permitted)
        return permitted

    def finish(
        self,
        number: str,
        token: str,
        status: Status,
        words: str,
        *,
        host_keys: Sequence[str] = (),
        now: datetime | None = None,
    ) -> Order:
        """Take the installer's result, once; the same one said again (an answer that was lost) changes nothing.

        Raises:
            Refused: no such order, a wrong token, no permission was given, or it ended otherwise.
        """
        with self._locked():
            order = next((each for each in self._all() if each.number == number), None)
            if order is None or not secrets.compare_digest(order.token.encode(), token.encode()):
                raise Refused("no such order, or not its token")
            state: State = "done" if status == "ok" else "failed"
            if order.state == state:
                return order
            if order.state != "permitted":
                raise Refused(f"the order is {order.state}", where=order.node)
            ended = order.model_copy(
                update={
                    "state": state,
                    "words": plain(words),
                    "ended_at": now or utc_now(),
                    "host_keys": tuple(host_keys),
                }
            )
            self._write(ended)
        return ended

    def _refused(self, order: Order, words: str) -> Refused:
        self._write(order.model_copy(update={"words": plain(f"refused: {words}")}))
        return Refused(words, where=order.node)

    def _path(self, node: str) -> Path:
        return self.directory / f"{node}.json"

    def _all(self) -> Iterator[Order]:
        for path in sorted(self.directory.glob("[A-Za-z0-9]*.json")):
            # Without the lock another may withdraw it meanwhile.
            with suppress(FileNotFoundError):
                yield _read(path)

    def _write(self, order: Order) -> None:
        text = order.model_dump_json(by_alias=True, indent=1)
        write_whole(self._path(order.node), text.encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MetalserveError(f"cannot be written: {error.strerror}", where=str(self.directory)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _read(path: Path) -> Order:
    try:
        return Order.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no order"
        raise MetalserveError(f"cannot be read: {reason}", where=str(path), remedy="remove it") from error
