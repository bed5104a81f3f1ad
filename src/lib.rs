//! skeleton
pub mod admin;
pub mod app;
pub mod config;
pub mod core;
pub mod directory;
pub mod drain;
pub mod metrics;
pub mod proxy;
pub mod server;
pub mod telemetry;
