"""From bench.toml to a resolved, frozen plan of cells."""
