"""From a plan to sealed cells."""
