"""The run folder and the record of what made its rows."""
