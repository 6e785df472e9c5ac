"""Derains many recordings with workers on a Ray cluster: each recording once, whatever fails meanwhile."""

from sapnet.fleet.ledger import FleetReport, Row
from sapnet.fleet.plan import plan_bags
from sapnet.fleet.run import FleetOptions, derain_fleet

__all__ = ["FleetOptions", "FleetReport", "Row", "derain_fleet", "plan_bags"]
