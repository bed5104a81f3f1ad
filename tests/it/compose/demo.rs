//! The demo application itself, its servers under what happens to servers: `tests/node/demo.mjs` starts and ends them.

use serde_json::{Value as Json, json};

use crate::support::{finish, node};

/// What a scenario has seen; it fails by itself where something does not happen that it waits for.
#[track_caller]
fn scenario(name: &str) -> Json {
    let router = env!("CARGO_BIN_EXE_pod-router");
    finish(node("the demo", &["demo.mjs", "--scenario", name, "--router", router, "--deadline", "100"]))
}

#[test]
fn nothing_that_a_client_sends_ends_a_server() {
    let heard = &scenario("garbage")["heard"];
    assert_eq!(
        *heard,
        json!([{ "from": "Ada", "text": "Still here?", "pod": "backend-0" }]),
        "and nothing else is said"
    );
}

#[test]
fn nobody_is_matched_with_somebody_whose_pod_has_gone() {
    assert_eq!(scenario("ghosts")["rooms"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_pod_that_leaves_keeps_no_room_that_was_placed_on_it() {
    let seen = scenario("promised");
    assert_eq!(seen["exit"], 0);
    assert!(seen["owner"].is_string() && seen["ownerAfterwards"].is_null(), "{seen}");
}

#[test]
fn rooms_made_at_once_are_spread_over_the_pods_and_within_their_limits() {
    let seen = scenario("placement");
    assert_eq!(seen["rooms"], 40);
    let spread = |by_pod: &Json| -> Vec<_> {
        by_pod.as_object().expect("figures by pod").values().filter_map(Json::as_u64).collect()
    };
    assert!(spread(&seen["byPod"]).iter().all(|rooms| (13..=14).contains(rooms)), "{seen}");
    assert_eq!(spread(&seen["most"]), [20, 20, 20], "MAX_ROOMS_PER_POD");
}

#[test]
fn who_waits_is_matched_after_redis_has_lost_everything() {
    assert!(scenario("forgotten")["room"].is_string());
}

#[test]
fn who_waits_is_matched_after_redis_was_away() {
    assert!(scenario("restarted")["room"].is_string());
}

#[test]
fn a_pod_lives_keeps_its_rooms_and_ends_without_redis() {
    let seen = scenario("outage");
    assert_eq!((&seen["live"], &seen["readyBefore"]), (&200.into(), &503.into()), "before Redis: {seen}");
    assert_eq!((&seen["liveDuring"], &seen["readyDuring"]), (&200.into(), &200.into()), "while it is away: {seen}");
    assert_eq!(seen["messages"][0]["text"], "Without Redis.", "who comes back finds the room: {seen}");
    assert_eq!((&seen["exit"], &seen["exitWithout"]), (&0.into(), &0.into()), "SIGTERM: {seen}");
}

/// As by the router's `--on-unassigned assign`, after an assignment was lost: two pods must not go on with one room.
#[test]
fn who_is_in_a_room_that_was_given_to_another_pod_is_sent_there() {
    // What a Socket.IO client comes back from by itself.
    assert_eq!(scenario("moved")["reasons"], json!(["transport close", "transport close"]));
}

#[test]
fn polling_works_through_routers_in_front_of_a_service_and_of_a_list() {
    let seen = scenario("sessions");
    for backend in ["clusterIp", "list"] {
        assert_eq!(seen[backend]["errors"], json!([]), "{backend}: a session has reached a pod that does not know it");
        // Which of them is chance, and a matter of each router's threads.
        assert!(seen[backend]["pods"].as_array().is_some_and(|pods| pods.len() >= 2), "{backend}: {seen}");
    }
}

/// An operator copies these users into a Redis that refuses whatever they do not list.
#[test]
fn application_and_routers_do_all_they_do_as_the_users_of_deploy_redis() {
    let seen = scenario("rights");
    // What the routers' Redis library asks of each connection, and goes on without.
    let users = ["pod-router", "pod-router-placing"];
    let refused: Vec<_> =
        users.iter().flat_map(|user| ["client|id", "info"].map(|what| format!("{user} command {what}"))).collect();
    assert_eq!(seen["refused"], json!(refused), "ACL LOG");
    assert_eq!(seen["unused"], json!([]), "rights that nobody has used");
    assert_eq!((&seen["healthyPods"], &seen["exit"]), (&3.into(), &0.into()), "{seen}");
    assert!(seen["ownerAfterwards"].is_null(), "a pod that goes takes its rooms' assignments along: {seen}");
}
