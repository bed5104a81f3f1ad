//! Fuzzing and properties: whatever the input, what the core makes of it agrees with a slow second opinion.
//!
//! Each target builds an input from seeds and random changes, calls a function of `core`, and compares with an oracle
//! of its own: written from the specification, or another implementation (httparse, serde_json, the WHATWG parsers of
//! `url` and of Node). Within the tests it makes a fixed number of runs from a fixed seed, so that the gate is the same
//! for everybody. `tests/run fuzz --minutes 10` takes random seeds for that long in an optimised build; a failure
//! prints the seed of its run, and `tests/run fuzz --seed N` makes that run again, and no other, of every target.
//!
//! To add a target (a parser): a module with a test that calls [`run`] with its name, a count that takes about two
//! seconds in a debug build, and a function of [`Input`]; and one more in [`TARGETS`].

mod body;
mod directory;
mod input;
mod proxy_protocol;
mod redirect;
mod request;
mod response;
mod room;

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use self::input::Input;

/// How many calls of [`run`] there are: a long run's time is divided among them.
const TARGETS: u32 = 9;

/// The seed of the gate's runs.
const FIXED_SEED: u64 = 2026;

/// Says which run has failed.
struct Telltale {
    target: &'static str,
    seed: u64,
}

impl Drop for Telltale {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("fuzz: {}: to see this again: tests/run fuzz --seed {}", self.target, self.seed);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Runs `target` so often, or as the environment says; it panics where a property does not hold. It returns whether the
/// input got past the first checks: a target whose inputs are all refused at the door tests little.
fn run(name: &'static str, count: u64, mut target: impl FnMut(&mut Input) -> bool) {
    let mut once = |seed: u64| {
        let _telltale = Telltale { target: name, seed };
        target(&mut Input::new(seed))
    };
    if let Some(seed) = number("FUZZ_SEED") {
        once(seed);
        return;
    }
    let started = Instant::now();
    let time = number("FUZZ_MINUTES").map(|minutes| Duration::from_secs(60 * minutes) / TARGETS);
    let first = if time.is_some() { fastrand::u64(..) } else { FIXED_SEED };
    let (mut runs, mut deep) = (0_u64, 0_u64);
    while time.map_or(runs < count, |time| started.elapsed() < time) {
        deep += u64::from(once(first.wrapping_add(runs)));
        runs += 1;
    }
    eprintln!("fuzz: {name}: {runs} runs, {deep} past the first checks, {:.1?}", started.elapsed());
    assert!(deep * 20 > runs, "{name}: only {deep} of {runs} inputs get anywhere");
}
