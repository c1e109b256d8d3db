"""Transports carry lists of frames between a runtime and its peers: ZeroMQ, or memory for tests."""

from __future__ import annotations

from hotset.protos.transport.base import ClientTransport, Delivery, Sender, ServerTransport
from hotset.protos.transport.keys import CurveKeys
from hotset.protos.transport.memory import MemoryServer
from hotset.protos.transport.zeromq import ZmqClient, ZmqServer

__all__ = [
    "ClientTransport",
    "CurveKeys",
    "Delivery",
    "MemoryServer",
    "Sender",
    "ServerTransport",
    "ZmqClient",
    "ZmqServer",
]
