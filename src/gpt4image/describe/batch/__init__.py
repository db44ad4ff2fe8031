"""Describe through a vendor's batch interface: half the price, answers within a day, and nothing is paid for twice."""
