//! Another parser's opinion: h11, which is strict and shares no code with hyper, reads the same bytes.
//!
//! What each pod received must be, to h11, exactly the requests that were counted. And where the router forwarded
//! something of a client's bytes, h11 must find those requests in them too, with the same ends.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};

use super::case::Case;
use super::ledger::{Ledger, Taken, hex};

/// Reads one question a line and writes one line for each where it differs.
const PROGRAM: &str = include_str!("differential.py");

/// `tests/run` makes it.
fn python() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/h11/bin/python")
}

/// Whether these client's bytes hold the requests that were forwarded.
pub(super) fn question_of(case: &Case, taken: &[Taken]) -> Json {
    let own = taken.iter().filter(|taken| !taken.target.contains("/after-") && !taken.target.contains("/fresh-"));
    json!({
        "kind": "client",
        "name": case.name,
        "bytes": hex(&[&case.bytes[..], case.more].concat()),
        "requests": own.map(Taken::json).collect::<Vec<_>>(),
        "differs": case.h11_differs.is_some(),
    })
}

/// Whether each pod's connection brought exactly the requests that were counted on it.
pub(super) fn questions_of(ledger: &Ledger) -> Vec<Json> {
    let questions = ledger.connections().into_iter().enumerate().map(|(number, (bytes, taken))| {
        json!({
            "kind": "pod",
            "name": format!("connection {number}"),
            "bytes": hex(&bytes),
            "requests": taken.iter().map(Taken::json).collect::<Vec<_>>(),
        })
    });
    questions.collect()
}

/// Fails with what h11 finds different.
#[track_caller]
pub(super) fn ask(questions: impl Iterator<Item = Json>) {
    let python = python();
    assert!(python.exists(), "{} is missing: tests/run makes it", python.display());
    let mut child = Command::new(python)
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let lines: Vec<_> = questions.map(|question| question.to_string()).collect();
    let mut input = child.stdin.take().expect("it is piped");
    let writing = std::thread::spawn({
        let text = lines.join("\n");
        move || input.write_all(text.as_bytes())
    });
    let output = child.wait_with_output().expect("Python ends");
    writing.join().expect("writing does not panic").expect("Python reads all questions");
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "h11's side has failed");
    let (last, differences) = answer.trim_end().rsplit_once('\n').unwrap_or(("", answer.trim_end()));
    let (differences, summary) = if last.is_empty() { ("", differences) } else { (last, differences) };
    assert!(summary.starts_with("asked "), "{answer}");
    assert!(differences.is_empty(), "h11 differs:\n{differences}");
    assert!(summary.contains(&format!("asked {}", lines.len())), "{summary}");
    eprintln!("corpus: h11 was {summary}");
}
