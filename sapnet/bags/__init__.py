"""Recordings: reads ROS 1 and ROS 2 bags, derains their cameras into new ones, compares them. Imports no ROS."""

from sapnet.bags.open import open_recording
from sapnet.bags.recording import Message, Recording, Topic

__all__ = ["Message", "Recording", "Topic", "open_recording"]
