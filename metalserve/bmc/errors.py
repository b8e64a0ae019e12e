"""What goes wrong with a BMC."""

from __future__ import annotations

from metalserve.errors import MetalserveError


class BmcError(MetalserveError):
    """A BMC does not answer, refuses, or does not show what it was asked to do."""

    def __init__(
        self, what: str, *, where: str | None = None, remedy: str | None = None, status: int = 0, sent: bool = False
    ) -> None:
        """Take what is wrong.

        Args:
            what: what is wrong, in words.
            where: the host, as "HOST's BMC".
            remedy: what to do about it.
            status: HTTP status that the BMC answered; 0 when there was no answer.
            sent: a change may have reached the BMC, though no answer came: look before it is asked again.
        """
        self.status = status
        self.sent = sent
        super().__init__(what, where=where, remedy=remedy)


def not_named(where: str, remedy: str) -> BmcError:
    """Return the refusal to change a system of which nobody said that it is the host's."""
    return BmcError("nothing is changed on a system that was not named", where=where, remedy=remedy)
