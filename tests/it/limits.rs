//! What one client may take, and what of a request is too much: each limit answers clearly, is counted, and touches
//! nobody else.

mod connections;
mod rates;
mod requests;

use crate::support::Stage;

/// How often requests or connections were turned away for this reason.
#[track_caller]
fn rejected(stage: &Stage, reason: &str) -> usize {
    stage.router.metric("pod_router_rejected_total", &[("reason", reason)]).round() as usize
}
