//! The raw corpus: literal bytes, from clients and from pods, and all that may come of each.
//!
//! The request side sends each [`Case`] on a connection of its own to one router, whose pods record every byte
//! ([`ledger`]). Checked are: what the pods saw, the answers and whose they are, whether the connection ends or goes on,
//! and that a request on a new connection works. Bystanders use the same pods all the while and must get their own answers.
//! The pod side ([`evil`]) has pods answer with each text in turn. [`differential`] has h11, another parser, read the same
//! bytes.

mod case;
mod differential;
mod evil;
mod evil_answers;
mod exchanges;
mod framing;
mod heads;
mod ledger;
mod rooms;

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value as Json;

use self::case::{Case, End};
use self::ledger::Ledger;
use crate::support::{Client, PATIENCE, Stage, StopOnDrop, eventually};

/// The pause between two of a bystander's requests.
const PACE: Duration = Duration::from_millis(5);

/// What came of a case on the client's side.
#[derive(Default)]
struct Outcome {
    answers: Vec<u16>,
    /// What each answer of a pod's says that it answers.
    answered: Vec<String>,
    end: Option<End>,
    note: String,
}

/// A router whose pods record what they get; `room_a` and `room_b` have a pod each.
fn recording_stage() -> (Stage, Ledger) {
    let (stage, ledger) = (Stage::new(), Ledger::default());
    stage.redis.assign("room_b", 1);
    stage.pods.iter().chain([&stage.any]).for_each(|pod| pod.play(ledger.script()));
    (stage, ledger)
}

/// Sends a GET and reads its answer; an error where that is not the answer to it.
fn probe(client: &mut Client, target: &str) -> io::Result<()> {
    client.try_send(format!("GET {target} HTTP/1.1\r\nHost: probe\r\n\r\n"))?;
    let response = client.try_read_response(false)?;
    match (response.status(), response.head.value("x-seen")) {
        (200, Some(seen)) if seen == target => Ok(()),
        _ => Err(io::Error::other(format!("the answer to {target} is\n{}", response.head.text()))),
    }
}

/// Sends requests like any client's until `stop`, on connections that serve twenty each.
fn bystander(stage: &Stage, room: &str, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let mut client = stage.client();
        for _ in 0..20 {
            number += 1;
            probe(&mut client, &format!("/{room}/bystander-{number}")).expect("a bystander gets its own answers");
            thread::sleep(PACE);
        }
    }
}

/// Runs `work` while two bystanders use the router.
fn among_bystanders<T>(stage: &Stage, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let bystanders = ["room_a", "room_b"].map(|room| {
            let stop = &stop;
            scope.spawn(move || bystander(stage, room, stop))
        });
        let made = {
            let _stop = StopOnDrop(&stop);
            work()
        };
        bystanders.into_iter().for_each(|one| one.join().expect("see above"));
        made
    })
}

/// Neither panics nor connections are left when all is over.
fn expect_at_rest(stage: &Stage) {
    eventually("no client's connection is left", || {
        stage.router.metric("pod_router_downstream_connections", &[]) < 0.5
    });
    let output = stage.router.whole_output();
    assert!(!output.contains("panicked"), "{output}");
}

/// What the pods have seen since a case began.
struct Seen<'a> {
    ledger: &'a Ledger,
    mark: usize,
}

impl Seen<'_> {
    fn shown(&self) -> Vec<String> {
        self.ledger.since(self.mark).iter().map(ledger::Taken::shown).collect()
    }

    /// Waits until it is this; whether it ever was, the case finds when it is over.
    fn wait_for(&self, expected: &[Cow<'static, str>]) {
        for _ in 0..PATIENCE.as_millis() / PACE.as_millis() {
            if self.shown() == expected {
                break;
            }
            thread::sleep(PACE);
        }
    }
}

// === the request side ===

impl Case {
    fn converse(&self, stage: &Stage, number: usize, seen: &Seen) -> Outcome {
        let mut client = stage.client();
        let mut outcome = Outcome::default();
        // The router may have had enough before it has read all.
        let _ = client.try_send(&self.bytes);
        if self.half_close {
            // A client that leaves before its request has been read is forgotten: that is not what these cases are about.
            seen.wait_for(&self.seen);
            client.half_close();
        }
        let to_head = self.bytes.starts_with(b"HEAD ");
        while outcome.answers.len() < self.answers.len() {
            match client.try_read_response(to_head) {
                Ok(response) => {
                    outcome.answers.push(response.status());
                    let seen = response.head.value("x-seen").map(str::to_owned);
                    outcome.answered.extend(seen);
                }
                Err(error) => {
                    outcome.note = error.to_string();
                    break;
                }
            }
            if outcome.answers.len() == 1 {
                let _ = client.try_send(self.more);
            }
        }
        outcome.end = self.end_of(&mut client, number, &mut outcome.note);
        outcome
    }

    /// What has become of the connection, as far as it is what the case says.
    fn end_of(&self, client: &mut Client, number: usize, note: &mut String) -> Option<End> {
        let result = match self.end {
            End::Closed => match client.wire().read_some() {
                Ok(bytes) if bytes.is_empty() => Ok(()),
                Ok(bytes) => Err(io::Error::other(format!("further bytes: {}", String::from_utf8_lossy(&bytes)))),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
                Err(error) => Err(error),
            },
            End::Open => probe(client, &format!("/room_b/after-{number}")),
            End::Tunnel => client.try_send("ping").and_then(|()| client.wire().read_exact(4)).map(|_| ()),
        };
        result.map_err(|error| note.push_str(&error.to_string())).is_ok().then_some(self.end)
    }

    /// Runs the case; what is not as it should be.
    fn run(&self, stage: &Stage, ledger: &Ledger, number: usize) -> Option<String> {
        let seen = Seen { ledger, mark: ledger.len() };
        let outcome = self.converse(stage, number, &seen);
        let mut expected = self.seen.clone();
        expected.extend((self.end == End::Open).then(|| format!("backend-1 GET /room_b/after-{number}").into()));
        // The client may be told before a pod has looked at what it got.
        seen.wait_for(&expected);
        let fresh = probe(&mut stage.client(), &format!("/room_a/fresh-{number}"));
        expected.push(format!("backend-0 GET /room_a/fresh-{number}").into());
        let targets: Vec<_> = ledger.since(seen.mark).into_iter().map(|taken| taken.target).collect();
        let seen = seen.shown();
        let in_order = outcome.answered.iter().zip(&targets).all(|(answered, target)| answered == target);
        let right = outcome.answers == self.answers
            && outcome.end == Some(self.end)
            && fresh.is_ok()
            && seen == expected
            && in_order;
        (!right).then(|| {
            format!(
                "{}: {:?}\n  answers {:?}, expected {:?}\n  end {:?}, expected {:?} ({})\n  seen {seen:?}\n  expected {expected:?}\n  \
                 fresh {fresh:?}, in order {in_order}",
                self.name,
                String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(300)]),
                outcome.answers,
                self.answers,
                outcome.end,
                self.end,
                outcome.note,
            )
        })
    }
}

fn all_cases() -> Vec<Case> {
    [framing::cases(), heads::cases(), exchanges::cases(), rooms::cases()].into_iter().flatten().collect()
}

#[test]
fn what_clients_send_is_forwarded_exactly_or_refused() {
    let (stage, ledger) = recording_stage();
    let cases = all_cases();
    let (wrong, questions) = among_bystanders(&stage, || {
        let mut questions: Vec<Json> = Vec::new();
        let mut wrong = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            let mark = ledger.len();
            wrong.extend(case.run(&stage, &ledger, number));
            questions.push(differential::question_of(case, &ledger.since(mark)));
        }
        (wrong, questions)
    });
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    expect_at_rest(&stage);
    let counted: usize = cases.iter().map(|case| case.seen.len() + 1 + usize::from(case.end == End::Open)).sum();
    assert_eq!(ledger.since(0).len(), counted, "a request came after its case was over");
    differential::ask(questions.into_iter().chain(differential::questions_of(&ledger)));
    let through = cases.iter().filter(|case| !case.seen.is_empty()).count();
    eprintln!(
        "corpus: {} request-side cases came out as they should: {through} reach a pod, {} do not; the pods have seen {} \
         requests, bystanders' included, and none too many",
        cases.len(),
        cases.len() - through,
        ledger.len()
    );
}
