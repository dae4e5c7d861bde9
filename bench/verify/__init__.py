"""Whether a run folder can be believed."""
