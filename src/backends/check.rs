//! Active health checks: each pod of the backends is asked for a path, all at once, time and again.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Backends, Member};
use crate::config::CheckConfig;
use crate::core::address::HostPort;
use crate::core::check::{Verdict, verdict};
use crate::dns::Dns;

/// As much of an answer as is read: the head, and the body's first word.
const MAX_ANSWER: u64 = 16 * 1024;

/// Checks for as long as the process lives, if it is configured to.
pub async fn check_forever(backends: Arc<Backends>, dns: Dns) {
    let Some(check) = backends.config.backends.check.clone() else {
        return;
    };
    let check = Arc::new(check);
    let mut rounds = interval(check.interval);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let mut round = JoinSet::new();
        for member in backends.iter().flat_map(|backend| backend.set().members.clone()) {
            let (check, dns) = (Arc::clone(&check), dns.clone());
            round.spawn_local(async move { one(&member, &check, &dns).await });
        }
        round.join_all().await;
    }
}

async fn one(member: &Arc<Member>, check: &CheckConfig, dns: &Dns) {
    let answered = timeout(check.timeout, ask(&member.address, &check.path, dns)).await;
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

/// One question. HTTP/1.0, so that the answer ends with the connection and is in no coding.
async fn ask(address: &HostPort, path: &str, dns: &Dns) -> io::Result<Verdict> {
    let addresses = dns.resolve(address).await?;
    let mut stream = TcpStream::connect(&*addresses).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: pod-router\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    read(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

fn read(answer: &[u8]) -> Option<Verdict> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.trim();
    Some(verdict(status.parse().ok()?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_perhaps_a_word() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Some(Verdict::Good)),
            ("HTTP/1.0 503\r\n\r\n", Some(Verdict::Bad)),
            ("HTTP/1.1 200 OK\r\n\r\ndrain\n", Some(Verdict::Drain)),
            ("HTTP/1.1 200 OK\r\n", None),
            ("SSH-2.0-x\r\n\r\n", None),
            ("HTTP/1.1 OK\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(read(answer.as_bytes()), expected, "{answer}");
        }
    }
}
