# SPDX-License-Identifier: Apache-2.0
"""paho's client on a network that may mean harm: through a proxy, and without believing what a broker announces."""

import socket

import paho.mqtt.client as paho

from device_agent.adapters.network.proxy import proxy_for
from edgefleet.contracts.messages import MESSAGE_LIMIT_BYTES

CONNECT_S = 10.0
#: The largest message of ours, its topic and properties.
PACKET_LIMIT_BYTES = 2 * MESSAGE_LIMIT_BYTES
_KIND, _PUBLISH, _SERVICE, _AT_LEAST_ONCE = 0xF0, 0x30, 0x06, 0x02


class BoundedClient(paho.Client):
    """paho's client, with a proxy on its way where there is one (its own support of proxies needs another package).

    A broker that announces a packet larger than any message, or sends by the service "exactly once", for which nobody
    asked and whose messages would all be kept until it releases them, is no broker: the connection is broken.
    """

    #: How often the socket was read; two or three times a packet.
    reads = 0

    def _create_socket_connection(self) -> socket.socket:
        proxy = proxy_for("mqtt", self._host)
        if proxy is None:
            return socket.create_connection((self._host, self._port), timeout=CONNECT_S)
        return proxy.tunnel(self._host, self._port, timeout_s=CONNECT_S)

    def _sock_recv(self, bufsize: int) -> bytes:
        self.reads += 1
        command = self._in_packet["command"]
        if bufsize > PACKET_LIMIT_BYTES or (command & _KIND == _PUBLISH and command & _SERVICE > _AT_LEAST_ONCE):
            raise ConnectionResetError("the broker sends what nobody asked for")
        return super()._sock_recv(bufsize)
