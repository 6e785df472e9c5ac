"""Recordings: reads ROS 1 and ROS 2 bags, derains their cameras into new ones, compares them. Imports no ROS."""

from sapnet.bags.open import BagSource, Recorded, Topic, open_bag

__all__ = ["BagSource", "Recorded", "Topic", "open_bag"]
