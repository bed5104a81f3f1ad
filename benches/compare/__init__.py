"""The side-by-side load test; `benches/run` starts it."""
