"""What programs and notebooks call: `bench.evaluate`, `bench.run`, `bench.open_run` and so on."""
