//! The integration tests: one binary that drives the built `pod-router`.
//!
//! A module is a suite (`tests/run NAME`). Each test starts what it needs, a router with real sockets and
//! mostly a real Redis, and speaks to it in literal bytes: `support` says how.

mod admin;
mod attack;
mod balance;
mod benches;
mod bodies;
mod chaos;
mod cli;
mod compose;
mod conformance;
mod corpus;
mod deploy;
mod directory;
mod dns;
mod drain;
mod failure;
mod fuzz;
mod http;
mod limits;
mod page;
mod peers;
mod regression;
mod socketio;
mod support;
mod tidy;
mod websocket;
