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

/// As much of an answer as is read.
const MAX_ANSWER: usize = 16 * 1024;

/// As much of its body as says something: the first word.
const FIRST_WORD: usize = 16;

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

/// One question. HTTP/1.0, so that the answer is in no coding; but some servers keep the connection open all the same.
async fn ask(address: &HostPort, path: &str, dns: &Dns) -> io::Result<Verdict> {
    let addresses = dns.resolve(address).await.map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(&*addresses).await?;
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: pod-router\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while answer.len() < MAX_ANSWER && !says_enough(&answer) && stream.read_buf(&mut answer).await? > 0 {}
    read(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

/// Whether more of it would change nothing: the head is there, and the body's first word or all of a shorter one.
fn says_enough(answer: &[u8]) -> bool {
    let answer = String::from_utf8_lossy(answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return false;
    };
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let length = fields.rev().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(usize::MAX);
    body.len() >= FIRST_WORD.min(length)
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
    fn an_answer_need_not_end_to_say_enough() {
        for (answer, enough) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nmaint", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nmain", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{\"status\":\"fine\"", true),
            ("HTTP/1.1 200 OK\r\n\r\nup", false),
            ("HTTP/1.1 200 OK\r\n", false),
        ] {
            assert_eq!(says_enough(answer.as_bytes()), enough, "{answer}");
        }
    }

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
