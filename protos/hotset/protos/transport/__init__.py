"""Transports carry lists of frames between a runtime and its peers: ZeroMQ, or memory for tests."""

from __future__ import annotations

from hotset.protos.transport.base import ClientTransport, Delivery, ServerTransport
from hotset.protos.transport.memory import MemoryServer
from hotset.protos.transport.zeromq import CurveKeys, ZmqClient, ZmqServer

__all__ = [
    "ClientTransport",
    "CurveKeys",
    "Delivery",
    "MemoryServer",
    "ServerTransport",
    "ZmqClient",
    "ZmqServer",
]
