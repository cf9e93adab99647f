"""``trainbus up``: everything this machine needs to serve a bus, under one process."""

from bus.up.plan import Part, plan_parts
from bus.up.supervisor import Supervisor

__all__ = ["Part", "Supervisor", "plan_parts"]
