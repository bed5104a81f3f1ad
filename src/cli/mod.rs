//! The commands that ask instead of serving: `check`, `explain` and `health`. They call the core and the directory, and
//! repeat neither. What they print goes to standard output; the exit status says the rest.

mod check;
mod explain;
mod health;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::config::{Config, DirectoryKind, HealthCheck, Question};
use crate::directory::Directory;
use crate::directory::memory::MemoryDirectory;
use crate::directory::redis::RedisDirectory;

/// Something cannot be reached (`EX_UNAVAILABLE` of sysexits.h).
const UNREACHABLE: u8 = 69;

/// Bad configuration (`EX_USAGE` of sysexits.h).
const WRONG: u8 = 64;

/// How long Redis may take to be connected to, beyond the time of one question.
const CONNECT: Duration = Duration::from_secs(3);

/// `pod-router check`: prints the effective configuration, then tries the directory, the pods and the default backend.
/// Has to run on the runtime the directory's connection shall live on.
pub async fn check(config: &Config) -> ExitCode {
    let mut out = io::stdout().lock();
    let reached = match &config.directory.kind {
        DirectoryKind::Memory => check::check(config, &MemoryDirectory::default(), &mut out).await,
        DirectoryKind::Redis(_) => match connect(config).await {
            Ok(directory) => check::check(config, &directory, &mut out).await,
            Err(error) => return wrong(&error),
        },
    };
    match reached {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(UNREACHABLE),
        Err(error) => unprintable(&error),
    }
}

/// `pod-router explain`: says where a request would go, and why. Has to run on the runtime the directory's connection shall
/// live on.
pub async fn explain(question: &Question) -> ExitCode {
    let config = &question.config;
    let explanation = match &config.directory.kind {
        DirectoryKind::Memory => explain::explain(question, &MemoryDirectory::default()).await,
        // Nobody is asked about a request without a room, so nobody is waited for.
        DirectoryKind::Redis(_) if !explain::names_a_room(question) => {
            explain::explain(question, &MemoryDirectory::default()).await
        }
        DirectoryKind::Redis(_) => match connect(config).await {
            Ok(directory) => explain::explain(question, &directory).await,
            Err(error) => return wrong(&error),
        },
    };
    let text = if question.json { explanation.json() } else { explanation.text() };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => unprintable(&error),
    }
}

/// `pod-router health`: silent when the router lives, for its output would be kept with each of a container's checks.
pub async fn health(check: HealthCheck) -> ExitCode {
    match health::ask(check).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("pod-router: {} {why}", check.admin);
            ExitCode::FAILURE
        }
    }
}

/// A connection to Redis, or one that has not come about in time: asking it then says why.
async fn connect(config: &Config) -> Result<RedisDirectory, String> {
    let DirectoryKind::Redis(redis) = &config.directory.kind else {
        return Err("the directory is not Redis".to_owned());
    };
    let directory = RedisDirectory::new(redis, config.directory.timeout, config.routing.statefulset.clone())?;
    directory.start();
    // Past the deadline the question that follows fails, with its reason.
    let _ = tokio::time::timeout(CONNECT, directory.first_contact()).await;
    Ok(directory)
}

fn wrong(error: &str) -> ExitCode {
    eprintln!("pod-router: {error}");
    ExitCode::from(WRONG)
}

/// Whoever was to read the answer has gone (`pod-router check | head -1`).
fn unprintable(error: &io::Error) -> ExitCode {
    eprintln!("pod-router: the answer could not be printed: {error}");
    ExitCode::FAILURE
}
