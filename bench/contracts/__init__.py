"""The contracts, one file a kind of plugin; `bench.api` re-exports what authors need."""
