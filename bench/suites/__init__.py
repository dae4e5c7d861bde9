"""Named plans, shipped as package data; `bench.plans.suites` finds them."""
