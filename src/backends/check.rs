//! Active health checks: each pod of the backends is asked for a path, time and again.
//!
//! A pod is asked again once it has answered or its time is over: one that is slow delays no other. Where requests may not
//! go (`--pod-networks`), no question goes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{Backends, Member};
use crate::config::{BackendsConfig, Config, UpstreamConfig};
use crate::core::check::{Verdict, verdict};
use crate::dns::Dns;
use crate::probe;

/// Checks for as long as the process lives, if it is configured to.
pub async fn check_forever(backends: Arc<Backends>, dns: Dns) {
    let Some(check) = &backends.config.backends.check else {
        return;
    };
    let mut under_way: Vec<(Arc<Member>, JoinHandle<()>)> = Vec::new();
    loop {
        under_way.retain(|(_, question)| !question.is_finished());
        for member in backends.iter().flat_map(|backend| backend.set().members.clone()) {
            if under_way.iter().all(|(asked, _)| !Arc::ptr_eq(asked, &member)) {
                let question = one(Arc::clone(&backends), Arc::clone(&member), dns.clone());
                under_way.push((member, tokio::task::spawn_local(question)));
            }
        }
        sleep(check.interval).await;
    }
}

async fn one(backends: Arc<Backends>, member: Arc<Member>, dns: Dns) {
    let Config { backends: BackendsConfig { check: Some(check), .. }, upstream, .. } = &*backends.config else {
        return;
    };
    let answered = timeout(check.timeout, ask(&member, &check.path, upstream, &dns)).await;
    let verdict = match answered {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => {
            tracing::debug!(pod = &*member.name, %error, "health check");
            Verdict::Bad
        }
        Err(_) => Verdict::Bad,
    };
    member.checked(verdict, check.rise, check.fall);
}

async fn ask(member: &Member, path: &str, upstream: &UpstreamConfig, dns: &Dns) -> io::Result<Verdict> {
    let found = dns.resolve(&member.address).await.map_err(io::Error::other)?;
    // As requests do: what a backend lists by another name is not confined.
    let may_be_asked = |found: &&SocketAddr| !member.is_pod || upstream.may_dial(found.ip());
    let addresses: Vec<_> = found.iter().filter(may_be_asked).copied().collect();
    if addresses.is_empty() {
        return Err(io::Error::other(format!("none of {found:?} is within --pod-networks")));
    }
    let stream = TcpStream::connect(&*addresses).await?;
    let said = probe::get(stream, &member.address.to_string(), path).await?;
    Ok(verdict(said.status.as_u16(), &said.word))
}
