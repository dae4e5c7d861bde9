"""Plugins for the tests: an honest toy world, and every way of breaking a contract that we could
think of."""
