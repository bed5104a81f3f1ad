//! What lies in `deploy/`: read by the tools that will read it, and checked against the router it is for.
//!
//! Nothing here talks to a cluster. What a cluster would refuse is found by the schemas of three Kubernetes versions and of
//! the other projects' kinds (`manifests`); what it would take and do wrong, by comparing the numbers and names that have
//! to agree (`numbers`, `references`) and by following the routing rules (`routes`). The rules and the dashboard are asked
//! of a real Prometheus that scrapes two real routers under load (`alerts`, `observed`), the overlay `dev` of two people in a
//! browser (`application`). What the README says to type when something is wrong is typed (`typed`).

mod alerts;
mod application;
mod manifests;
mod numbers;
mod observed;
mod references;
mod routes;
mod tools;
mod typed;
