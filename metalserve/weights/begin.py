"""The shell that begins a unit's work on a model, with the source's secret in memory for as long as it lasts."""

from __future__ import annotations

import base64
import shlex

from metalserve.secrets import resolve
from metalserve.settings import ModelSettings
from metalserve.weights.host import RUN, config_path, key_of, secret_path
from metalserve.weights.units import Verb, unit_name


def begin_script(model: ModelSettings, verb: Verb, *, restart: bool = False) -> str:
    """Return the shell (with `desired/prelude.sh` before it) that begins work on a model, or lets go on what runs.

    Args:
        model: the model.
        verb: which unit.
        restart: end what runs first: it was told something else.

    Raises:
        MetalserveError: the secret cannot be read on the controller.
    """
    key = key_of(model)
    unit, config = shlex.quote(unit_name(verb, key)), shlex.quote(config_path(key))
    secret = _secret(model) if verb != "check" else ""
    # The start is waited for, which is short (Type=exec): until then it would look like one that has ended.
    return (
        f"[ -e {config} ] || ms_fail 'this model was never staged here -> run deploys/weights.py'\n"
        f"mkdir -p {RUN}\n{secret}"
        f"systemctl reset-failed {unit} 2>/dev/null || :\n"
        f"systemctl {'restart' if restart else 'start'} {unit} || "
        f"{{ systemctl status --no-pager -n 10 {unit} || :; ms_fail {unit}' did not start'; }}\n"
        "trap - EXIT\n"
    )


def _secret(model: ModelSettings) -> str:
    """Return the shell that puts the secret on the host; the unit removes it when it ends, or this when none starts."""
    if model.hf_token is None:
        return ""
    path = secret_path(key_of(model))
    # Read only now, when there is something to fetch. By standard input into a file of root's: no argv ever has it.
    text = base64.b64encode(f"{resolve(model.hf_token).reveal()}\n".encode()).decode()
    return (
        f"trap 'rm -f {path}' EXIT; trap 'exit 143' TERM HUP INT\n"
        f"ms_put {path} 0600 root root <<'MS_EOF'\n{text}\nMS_EOF\n"
    )
