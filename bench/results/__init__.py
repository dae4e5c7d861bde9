"""From sealed cells to boards. Imports no torch."""
