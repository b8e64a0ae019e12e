"""Logging in to a Redfish service: a session where there are sessions, else basic authentication."""

from __future__ import annotations

from sushy import auth as sushy_auth
from sushy import exceptions as sushy_errors

from metalserve.secrets import Secret


class Login(sushy_auth.SessionAuth):  # type: ignore[misc]  # sushy is untyped
    """A session, or basic authentication when the BMC has no sessions or no room for one more.

    sushy's own tries basic authentication after a refused password too: that is a second failed login for one
    mistake, and BMCs lock an account after three to five.
    """

    def __init__(self, user: str, password: Secret) -> None:
        """Take user and password."""
        self.fell_back = ""
        super().__init__(user, password.reveal())

    def _do_authenticate(self) -> None:
        try:
            super()._do_authenticate()
        except (sushy_errors.AccessError, sushy_errors.ConnectionError):
            raise
        except sushy_errors.SushyError as error:
            status = getattr(error, "status_code", None)
            self.fell_back = f"no session ({f'HTTP {status}' if status else 'none offered'}), basic authentication"
            self.reset_session_attrs()
            self._connector.set_http_basic_auth(self._username, self._password)
