//! `check`: the effective configuration, and whether what it names can be reached.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Instant;

use tokio::net::{TcpStream, lookup_host};

use crate::backends;
use crate::config::{Config, DirectoryKind, Source};
use crate::core::address::HostPort;
use crate::core::assignment::{Heartbeat, PodId};
use crate::core::decision::OnUnassigned;
use crate::core::placement::is_healthy;
use crate::directory::memory::now_ms;
use crate::directory::{Directory, DirectoryError, nobodys_room};
use crate::dns::Dns;

/// Prints the configuration and a line for everything that is tried; whether all of it could be reached.
pub(super) async fn check<D: Directory>(config: &Config, directory: &D, out: &mut impl Write) -> io::Result<bool> {
    for (flag, value) in config.effective() {
        writeln!(out, "{flag:<28} {value}")?;
    }
    writeln!(out)?;

    let (mut reached, heartbeats) = ask(config, directory, out).await?;
    let mut pods = BTreeMap::new();
    for (pod, _) in heartbeats.iter().flatten() {
        pods.insert(pod.to_string(), config.routing.address_of(pod));
    }
    for (pod, address) in &config.routing.fixed_pods {
        pods.insert(pod.to_string(), address.clone());
    }
    for (pod, address) in &pods {
        reached &= report(out, &format!("{pod} at {address}"), dial(config, address, true).await)?;
    }
    if pods.is_empty() {
        let why = if heartbeats.is_some() {
            "none has a heartbeat in the directory"
        } else {
            "the directory does not say who has a heartbeat"
        };
        writeln!(out, "no pods are known: {why}, and none is given with --pod")?;
        inform_of_first_pod(config, out).await?;
    }
    for backend in &config.backends.backends {
        let what =
            if backend.prefix.is_empty() { "default backend".to_owned() } else { format!("route {}", backend.prefix) };
        for source in &backend.sources {
            // What the directory lists is tried above.
            if let Source::Host(address, _) = source {
                reached &= report(out, &format!("{what} {address}"), dial(config, address, false).await)?;
            }
            reached &= count_pods(config, &what, source, heartbeats.as_deref(), out).await?;
        }
    }
    Ok(reached)
}

/// How many pods a source names now, where that can change. Whether there is any; a host without one is told of already.
async fn count_pods(
    config: &Config,
    what: &str,
    source: &Source,
    heartbeats: Option<&[(PodId, Heartbeat)]>,
    out: &mut impl Write,
) -> io::Result<bool> {
    let asked = Instant::now();
    let found = match source {
        Source::Heartbeats => {
            let alive = |heartbeats: &[(PodId, Heartbeat)]| -> Vec<_> {
                let healthy = heartbeats.iter().filter(|(_, beat)| is_healthy(beat, now_ms()));
                healthy.map(|(pod, _)| pod.to_string().into()).collect()
            };
            heartbeats.map(alive).ok_or_else(|| "the directory does not say".to_owned())
        }
        Source::Host(..) | Source::Srv(_) => match backends::known_to_dns(source, config, &Dns::default()).await {
            Some(found) => found,
            None => return Ok(true),
        },
    };
    let pods = match found {
        Ok(pods) if pods.is_empty() && matches!(source, Source::Host(..)) => return Ok(false),
        Ok(pods) if pods.is_empty() => return report(out, &format!("{what} {source}"), Err("no pod".to_owned())),
        Ok(pods) => pods,
        Err(why) => return report(out, &format!("{what} {source}"), Err(why)),
    };
    let hint = match (source, pods.len()) {
        (Source::Host(..), 1) => " (a headless Service's name has an address for each)",
        _ => "",
    };
    let noun = if pods.len() == 1 { "pod" } else { "pods" };
    report(out, &format!("{what} {source}: {} {noun}{hint}: {}", pods.len(), pods.join(", ")), Ok(asked))
}

/// What a Redis user needs to be asked for rooms and heartbeats.
const READING: &str =
    "+ping, and +getrange and +get on this key and all like it (and +select for a database other than 0)";

/// What it needs besides to place rooms.
const PLACING: &str = "+eval, +exists, +time, +set and +getrange on this key and all like it";

/// Puts the questions to the directory: a room, by a key of the form of all others; where rooms are placed, whether one
/// could be; and the heartbeats, which stand elsewhere and may be refused alone. Whether all were answered, and the pods
/// that have a heartbeat, where that could be asked.
async fn ask<D: Directory>(
    config: &Config,
    directory: &D,
    out: &mut impl Write,
) -> io::Result<(bool, Option<Vec<(PodId, Heartbeat)>>)> {
    let room = nobodys_room();
    let key = match &config.directory.kind {
        DirectoryKind::Redis(redis) => redis.room_key.key(&room),
        DirectoryKind::Memory => room.to_string(),
    };
    let asked = Instant::now();
    let found = directory.lookup(&room).await.map(|_| asked);
    let looked_up = report(out, &format!("directory, a room: {key}"), found.map_err(|why| advice(&why, READING)))?;
    let placed = match config.routing.on_unassigned {
        OnUnassigned::Assign => {
            let asked = Instant::now();
            let answer = directory.try_claiming().await.map(|()| asked);
            report(out, &format!("directory, placing a room: {key}"), answer.map_err(|why| advice(&why, PLACING)))?
        }
        OnUnassigned::DefaultBackend | OnUnassigned::Reject => true,
    };
    let asked = Instant::now();
    let beats = directory.heartbeats().await;
    let sample = config.routing.statefulset.nth(0);
    let what = format!("directory, heartbeats: pod:{sample}:metrics");
    let heard = report(out, &what, beats.as_ref().map(|_| asked).map_err(|why| advice(why, READING)))?;
    Ok((looked_up && placed && heard, beats.ok()))
}

/// The directory's reason, and for a missing right what is needed.
fn advice(error: &DirectoryError, rights: &str) -> String {
    match error {
        // Without the right to ping there is no connection that counts as one.
        DirectoryError::Refused(why) | DirectoryError::Unavailable(why) if is_right_missing(why) => {
            format!("{error}; the user needs {rights}")
        }
        DirectoryError::Refused(_) | DirectoryError::Unavailable(_) | DirectoryError::Timeout => error.to_string(),
    }
}

/// Whether Redis refuses for want of a right. Of a command inside a script, 7.0 and 7.2 each have words of their own.
fn is_right_missing(why: &str) -> bool {
    ["NOPERM", "can't run this command", "ACL failure"].iter().any(|words| why.contains(words))
}

/// Where the template leads for the first pod. It may not be running: that it cannot be reached is no failure, but why it
/// cannot (no such name, a refusal, a firewall) tells whether the template is right.
async fn inform_of_first_pod(config: &Config, out: &mut impl Write) -> io::Result<()> {
    let first = config.routing.statefulset.nth(0);
    let address = config.routing.address_of(&first);
    let outcome = match dial(config, &address, true).await {
        Ok(_) => "it can be reached".to_owned(),
        Err(why) => format!("it cannot be reached now: {why}"),
    };
    writeln!(out, "info    {first} would be at {address}; {outcome}")
}

/// One line: what was tried, and how it went. Whether it went well.
fn report(out: &mut impl Write, what: &str, since: Result<Instant, String>) -> io::Result<bool> {
    match since {
        Ok(since) => writeln!(out, "ok      {what} ({:.1} ms)", since.elapsed().as_secs_f64() * 1000.0)?,
        Err(ref why) => writeln!(out, "FAILED  {what}: {why}")?,
    }
    Ok(since.is_ok())
}

/// Connects and hangs up; when it began, so that the time can be told. Of a pod, which is `confined`, addresses outside
/// `--pod-networks` are left alone.
async fn dial(config: &Config, address: &HostPort, confined: bool) -> Result<Instant, String> {
    let started = Instant::now();
    let connect = async {
        let found = lookup_host((&*address.host, address.port)).await?;
        let found: Vec<_> = found.filter(|found| !confined || config.upstream.may_dial(found.ip())).collect();
        if found.is_empty() {
            return Err(io::Error::other("it has no address within --pod-networks"));
        }
        TcpStream::connect(&found[..]).await
    };
    match tokio::time::timeout(config.upstream.connect_timeout, connect).await {
        Ok(Ok(_)) => Ok(started),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no connection within --connect-timeout".to_owned()),
    }
}
