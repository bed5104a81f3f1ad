//! skeleton
pub mod config;
pub mod core;
pub mod dev;
pub mod directory;
