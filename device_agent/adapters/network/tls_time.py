# SPDX-License-Identifier: Apache-2.0
"""TLS on a board whose clock died: a certificate is judged by the latest time that the device knows of.

To a clock that says 1970 every certificate is one of the future, and no update would ever come, nor any message go. So
where the clock is known to be behind, and only there, TLS does not look at validity times (the chain, the name and the
key it does), and a certificate is refused if it expired before the known time. The authority is this device's own, from
its ticket. HTTPS, renewal and MQTT go by the same time.
"""

import ssl
import time
from typing import Any

from device_agent.core.orders.clock_judgement import behind, believed, day

#: X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python's ssl has no name for.
_NO_CHECK_TIME = 0x200000


def judge_by_known_time(context: ssl.SSLContext, bound: float) -> None:
    """Set up a client's context for a clock that may be behind; ``bound`` is a time that has passed (Unix seconds)."""
    now = time.time()
    if behind(now, bound):
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        context.sslsocket_class = _socket_class(believed(now, bound))


def _socket_class(known: float) -> Any:  # a class that the context makes its connections of
    class Connection(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            until = ssl.cert_time_to_seconds(str((self.getpeercert() or {})["notAfter"]))
            if until < known:
                self.close()
                expired = f"the server's certificate expired on {day(until)}, and it is {day(known)} or later"
                raise ssl.SSLError(ssl.SSL_ERROR_SSL, expired)

    return Connection
