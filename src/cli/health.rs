//! `health`: whether the router on this machine lives, for the health check of an image that holds nothing but the router.
//!
//! Asks `/livez`, which asks nobody in turn: a container must not be restarted because Redis is away.

use tokio::net::TcpStream;

use crate::config::HealthCheck;
use crate::probe::{self, Said};

/// One question.
///
/// # Errors
///
/// The router does not live, as the end of a sentence that begins with its address.
pub(super) async fn ask(check: HealthCheck) -> Result<(), String> {
    let question =
        async { probe::get(TcpStream::connect(check.admin).await?, &check.admin.to_string(), "/livez").await };
    match tokio::time::timeout(check.timeout, question).await {
        Ok(Ok(Said { status, .. })) if status == 200 => Ok(()),
        Ok(Ok(Said { status, .. })) => Err(format!("did not answer 200 to /livez but {status}")),
        Ok(Err(error)) => Err(format!("cannot be asked: {error}")),
        Err(_) => Err("did not answer within --timeout".to_owned()),
    }
}
