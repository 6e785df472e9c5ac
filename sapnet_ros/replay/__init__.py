"""Plays recordings through a live derain_node and records what it publishes."""
