# SPDX-License-Identifier: Apache-2.0
"""How a process ended, in a word or two for people."""

import signal


def describe_end(status: int) -> str:
    """Return ``exit status 1``, the name of the signal that ended a process (``SIGSEGV``), or ``signal 77``.

    ``status`` is as :mod:`subprocess` gives it: negative for a signal.
    """
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
