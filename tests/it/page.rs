//! `pod-router dev` as a newcomer meets it: its page in a real browser, through the router.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::Value;

use crate::support::Process;

/// Starts `dev` on free ports; the process, and the page's URL from what it prints.
fn dev() -> (Process, String) {
    let mut process = Process::start("pod-router dev", env!("CARGO_BIN_EXE_pod-router"), |command| {
        command.args(["dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    });
    let mut lines = BufReader::new(process.take_stdout()).lines().map_while(Result::ok);
    let page = lines.find(|line| line.contains("The page")).unwrap_or_else(|| {
        let mut errors = String::new();
        let _ = process.take_stderr().read_to_string(&mut errors);
        panic!("dev does not say where its page is: {errors}")
    });
    let url = page.split_whitespace().last().expect("the line ends in the URL").to_owned();
    // What follows is the log: nobody reads it here, and a full pipe would not hold anybody up.
    std::thread::spawn(move || lines.for_each(drop));
    (process, url)
}

/// The steps a person takes: open a room, send on its WebSocket, move it, ask again, open the redirected page. With
/// `SCREENSHOT=PATH` the screenshot is kept.
#[test]
fn a_person_can_click_through_it() {
    let (_dev, url) = dev();
    let screenshot = std::env::var("SCREENSHOT").unwrap_or_default();
    let mut browser = Process::start("the browser", "node", |command| {
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node")).stdin(Stdio::piped());
        command.args(["page.mjs", "--url", &url, "--deadline", "120"]);
        if !screenshot.is_empty() {
            command.args(["--screenshot", &screenshot]);
        }
    });
    let (mut text, mut errors) = (String::new(), String::new());
    browser.take_stdout().read_to_string(&mut text).expect("the output can be read");
    browser.take_stderr().read_to_string(&mut errors).expect("the errors can be read");
    assert!(browser.wait_exit().success(), "{text}{errors}");
    let seen: Value = serde_json::from_str(&text).expect("the steps as JSON");
    assert_eq!(seen["steps"].as_array().map(Vec::len), Some(5), "{seen}");
}

#[test]
fn a_signal_ends_it_at_once() {
    let (mut dev, _) = dev();
    dev.signal("INT");
    assert!(dev.wait_exit().success());
}
