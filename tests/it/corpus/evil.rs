//! The pod side: answers that are broken, ambiguous, late, endless or nobody's, and what the client may get of them.
//!
//! Whatever a pod sends, the client gets a whole answer, one that is seen to be cut off, or the router's own 502; the next
//! client gets its own; and a connection whose exchange did not end cleanly is closed.

use std::borrow::Cow;

use serde_json::{Value as Json, json};

use super::ledger::{After, Ledger, hex};
use super::{among_bystanders, differential, evil_answers, expect_at_rest, probe, recording_stage};
use crate::support::{Framing, Stage, Tape, eventually};

/// A case. Whatever is not said: a GET, answered by the pod with these bytes, after which it waits; the client gets 502
/// and the pod's connection is closed.
pub(super) struct Evil {
    pub(super) name: &'static str,
    /// How the request begins: its target is `/room_a/evil`.
    pub(super) method: &'static str,
    /// Further lines of the request.
    pub(super) lines: &'static str,
    pub(super) bytes: Cow<'static, [u8]>,
    pub(super) after: After,
    pub(super) want: Want,
    /// Whether the pod's connection may serve another request.
    pub(super) kept: bool,
}

/// What the client gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// The router's own answer.
    Own(u16),
    /// The pod's answer, whole.
    Whole(u16, Vec<u8>),
    /// The pod's answer, seen to be cut off after at most this.
    CutOff(u16, Vec<u8>),
}

pub(super) fn evil(name: &'static str, bytes: impl Into<Cow<'static, [u8]>>) -> Evil {
    let (method, lines) = ("GET", "");
    Evil { name, method, lines, bytes: bytes.into(), after: After::Wait, want: Want::Own(502), kept: false }
}

impl Evil {
    pub(super) fn to(mut self, method: &'static str, lines: &'static str) -> Self {
        (self.method, self.lines) = (method, lines);
        self
    }

    /// What the pod does when it has sent this.
    pub(super) fn then(mut self, after: After) -> Self {
        self.after = after;
        self
    }

    pub(super) fn whole(mut self, status: u16, body: impl Into<Vec<u8>>) -> Self {
        self.want = Want::Whole(status, body.into());
        self
    }

    pub(super) fn cut_off(mut self, status: u16, body: impl Into<Vec<u8>>) -> Self {
        self.want = Want::CutOff(status, body.into());
        self
    }

    pub(super) fn kept(mut self) -> Self {
        self.kept = true;
        self
    }

    fn got(&self, stage: &Stage, number: usize) -> (Result<Want, String>, Tape) {
        let mut client = stage.client();
        let tape = client.wire().record();
        client.send(format!("{} /room_a/evil HTTP/1.1\r\nHost: a\r\n{}\r\n", self.method, self.lines));
        let head = match client.wire().read_head() {
            Ok(Some(head)) => head,
            other => return (Err(format!("no head: {:?}", other.err())), tape),
        };
        let status: u16 = head.second_word().parse().unwrap_or_default();
        let bodiless = self.method == "HEAD" || status == 204 || status == 304;
        let framing = if bodiless { Framing::Length(0) } else { head.framing(Framing::UntilClose) };
        let mut body = Vec::new();
        let complete = client.wire().read_body(framing, |piece| body.extend_from_slice(piece)).is_ok();
        let got = match (head.has("x-pod-router-error"), complete) {
            (true, _) => Want::Own(status),
            (false, true) => Want::Whole(status, body),
            (false, false) => Want::CutOff(status, body),
        };
        let goes_on = complete && !head.values("connection").iter().any(|option| option.contains("close"));
        if goes_on && let Err(error) = probe(&mut client, &format!("/room_b/after-{number}")) {
            return (Err(format!("{got:?}, and then {error}")), tape);
        }
        (Ok(got), tape)
    }

    fn run(&self, stage: &Stage, ledger: &Ledger, number: usize, questions: &mut Vec<Json>) -> Option<String> {
        ledger.prepare(&self.bytes, self.after);
        let mark = ledger.len();
        let (got, tape) = self.got(stage, number);
        let right = match (&got, &self.want) {
            (Ok(Want::CutOff(status, body)), Want::CutOff(wanted, most)) => status == wanted && most.starts_with(body),
            (Ok(got), wanted) => got == wanted,
            (Err(_), _) => false,
        };
        let fresh = probe(&mut stage.client(), &format!("/room_a/fresh-{number}"));
        let taken = ledger.since(mark);
        let evil: Vec<_> = taken.iter().filter(|taken| taken.target.contains("/evil")).collect();
        let once = evil.len() == 1;
        if let (Some(evil), false) = (evil.first(), self.kept) {
            let what = format!("{}: the pod's connection is closed", self.name);
            eventually(&what, || ledger.has_ended(evil.connection));
        }
        let kept = evil.first().is_some_and(|evil| !ledger.has_ended(evil.connection));
        questions.push(self.question(&tape));
        (!(right && fresh.is_ok() && once && kept == self.kept)).then(|| {
            format!(
                "{}: got {got:?}\n  wanted {:?}\n  fresh {fresh:?}, sent once {once}, kept {kept}",
                self.name, self.want
            )
        })
    }

    /// What h11 reads in the bytes that the client got.
    fn question(&self, tape: &Tape) -> Json {
        let (status, body, complete) = match &self.want {
            Want::Own(status) => (status, None, true),
            Want::Whole(status, body) => (status, Some(hex(body)), true),
            Want::CutOff(status, _) => (status, None, false),
        };
        json!({
            "kind": "answer", "name": self.name, "bytes": hex(&tape.copy()), "method": self.method,
            "status": status, "body": body, "complete": complete,
        })
    }
}

#[test]
fn what_pods_answer_arrives_whole_or_is_seen_to_be_broken() {
    let (stage, ledger) = recording_stage();
    let cases = evil_answers::cases();
    let (wrong, questions) = among_bystanders(&stage, || {
        let mut questions = Vec::new();
        let run = |(number, case): (usize, &Evil)| case.run(&stage, &ledger, number, &mut questions);
        let wrong: Vec<_> = cases.iter().enumerate().filter_map(run).collect();
        (wrong, questions)
    });
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    expect_at_rest(&stage);
    differential::ask(questions.into_iter().chain(differential::questions_of(&ledger)));
    let count = |which: fn(&Want) -> bool| cases.iter().filter(|case| which(&case.want)).count();
    eprintln!(
        "corpus: {} answers of evil pods came out as they should: {} arrive whole, {} are seen to be cut off, for {} the \
         router answers itself",
        cases.len(),
        count(|want| matches!(want, Want::Whole(..))),
        count(|want| matches!(want, Want::CutOff(..))),
        count(|want| matches!(want, Want::Own(_))),
    );
}
