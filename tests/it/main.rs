//! The integration tests: one binary that drives the built `pod-router`.
