"""A broker process of our own, for one machine: Mosquitto, or NATS where there is none."""

from bus.broker.embedded import EmbeddedBroker
from bus.broker.engines import EngineName, find_engine

__all__ = ["EmbeddedBroker", "EngineName", "find_engine"]
