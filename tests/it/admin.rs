//! What an operator sees: probes, status, metrics and the log.

mod log;
mod metrics;
mod probes;
