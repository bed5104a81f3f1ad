//! A pod that is killed and started again while requests keep coming.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::{Client, Stage, StopOnDrop, eventually};

/// How often the pod dies.
const DEATHS: usize = 5;

const FAILURES: &str = "pod_router_upstream_connect_failures_total";
const POD: &[(&str, &str)] = &[("pod", "backend-0")];

/// Issue 2: a pod killed and restarted under load costs no HTTP request that had not been sent yet. So whatever
/// fails must have reached the pod, and nothing may reach it twice.
#[test]
fn a_restart_under_load_costs_only_what_the_pod_had_seen() {
    let mut stage = Stage::with(&["--pod-wait", "60s"]);
    let (failed, answered, over) = (Mutex::new(Vec::new()), AtomicUsize::new(0), AtomicBool::new(false));
    let addr = stage.router.addr();
    thread::scope(|scope| {
        let _over = StopOnDrop(&over);
        for thread in 0..4 {
            let (failed, answered, over) = (&failed, &answered, &over);
            scope.spawn(move || {
                let mut client = Client::connect(addr);
                for number in 0.. {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    let id = format!("{thread}-{number}");
                    // A GET would tempt the router to repeat it, a POST shows that it may not.
                    let method = if number % 2 == 0 { "GET" } else { "POST" };
                    let request = format!("{method} /room_a/{id} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
                    match client.try_request(request.as_bytes()) {
                        Ok(response) if response.pod() == "backend-0" => {
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(response) => {
                            let why = format!("{}{}", response.head.text(), response.text());
                            failed.lock().expect("no thread panics").push((id, why));
                        }
                        Err(error) => {
                            failed.lock().expect("no thread panics").push((id, error.to_string()));
                            client = Client::connect(addr);
                        }
                    }
                }
            });
        }
        for _ in 0..DEATHS {
            let before = answered.load(Ordering::SeqCst);
            eventually("requests are answered", || answered.load(Ordering::SeqCst) > before + 50);
            let refused = stage.router.metric(FAILURES, POD);
            stage.pods.get_mut(0).kill();
            // All four clients' requests have met a pod that is away.
            stage.router.wait_metric(FAILURES, POD, refused + 4.0);
            stage.pods.get_mut(0).bind();
        }
        let before = answered.load(Ordering::SeqCst);
        eventually("requests are answered", || answered.load(Ordering::SeqCst) > before + 50);
    });

    let received = stage.pods[0].received();
    let targets: Vec<_> = received.iter().map(|received| received.head.second_word().to_owned()).collect();
    let distinct: HashSet<_> = targets.iter().collect();
    assert_eq!(distinct.len(), targets.len(), "a request was delivered twice");
    for (id, why) in failed.into_inner().expect("no thread panics") {
        assert!(distinct.contains(&format!("/room_a/{id}")), "{id} failed and the pod never saw it:\n{why}");
    }
}
