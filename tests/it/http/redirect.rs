//! The 302 that a browser's page load gets.

use crate::support::{Response, Stage};

/// What browsers send for a page load.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";

/// A request with this `Accept`, on a connection of its own.
fn load(stage: &Stage, method: &str, target: &str, accept: &str) -> Response {
    stage.request(format!("{method} {target} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nContent-Length: 0\r\n\r\n"))
}

#[test]
fn a_page_load_is_redirected_with_exactly_this_head() {
    let stage = Stage::new();
    for method in ["GET", "HEAD"] {
        let response = load(&stage, method, "/experiment/room_a", BROWSER);
        assert_eq!(response.head.start_line(), "HTTP/1.1 302 Found");
        assert_eq!(response.head.value("location"), Some("/experiment?roomId=room_a&pod=backend-0"));
        assert_eq!(response.head.value("vary"), Some("Accept"));
        assert_eq!(response.head.value("cache-control"), Some("no-store"));
        // RFC 9110 section 9.3.2: what is told of the body may be left out in an answer to HEAD.
        let mut names = response.head.names();
        names.retain(|name| name != "content-length");
        assert_eq!(names, ["cache-control", "date", "location", "vary", "x-request-id"], "{method}");
        assert_eq!(response.head.value("content-length").unwrap_or("0"), "0");
        assert!(response.body.is_empty());
    }
    assert!(stage.pods[0].received().is_empty());
}

#[test]
fn a_room_without_a_pod_is_redirected_without_one() {
    let stage = Stage::new();
    let response = load(&stage, "GET", "/experiment/room_unknown", BROWSER);
    assert_eq!(response.status(), 302);
    assert_eq!(response.head.value("location"), Some("/experiment?roomId=room_unknown"));
}

#[test]
fn what_is_no_page_load_goes_to_the_pod() {
    let stage = Stage::new();
    for (method, target, accept) in [
        ("POST", "/experiment/room_a", BROWSER),
        ("PUT", "/experiment/room_a", BROWSER),
        ("GET", "/experiment/room_a", "*/*"),
        ("GET", "/experiment/room_a", "application/json"),
        ("GET", "/experiment/room_a", "application/json, text/html;q=0.5"),
        ("GET", "/experiment/room_a", "text/html;q=0, */*"),
        ("GET", "/experiment/room_a", ""),
        ("GET", "/api/room/room_a", BROWSER),
        ("GET", "/experimental/room_a", BROWSER),
    ] {
        assert_eq!(load(&stage, method, target, accept).pod(), "backend-0", "{method} {target} {accept}");
    }
    assert_eq!(stage.get("/experiment/room_a").pod(), "backend-0", "no Accept at all");
}

#[test]
fn a_page_load_that_names_no_room_goes_to_the_default_backend() {
    let stage = Stage::new();
    for target in ["/experiment/", "/experiment/list", "/experiment?roomId=room_a&pod=backend-0"] {
        assert_eq!(load(&stage, "GET", target, BROWSER).pod(), "any", "{target}");
    }
}

/// The target is built from validated parts only: nothing of the request steers it off the origin.
#[test]
fn nothing_in_the_request_shapes_the_location() {
    let stage = Stage::new();
    let response = stage.request(format!(
        "GET /experiment/room_a//evil.example/?pod=backend-9&roomId=x HTTP/1.1\r\nHost: evil.example\r\n\
         X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: gopher\r\nAccept: {BROWSER}\r\n\r\n"
    ));
    assert_eq!(response.head.value("location"), Some("/experiment?roomId=room_a&pod=backend-0"));
    let split = load(&stage, "GET", "/experiment/room_a%0d%0aX:%20y", BROWSER);
    assert_eq!(split.pod(), "any", "no room at all:\n{}", split.head.text());
    load(&stage, "GET", "/experiment/room%5Fa", BROWSER).expect_error(400);
}

#[test]
fn the_next_request_of_the_connection_is_served() {
    let stage = Stage::new();
    let mut client = stage.client();
    let page = format!("GET /experiment/room_a HTTP/1.1\r\nHost: a\r\nAccept: {BROWSER}\r\n\r\n");
    assert_eq!(client.request(&page).status(), 302);
    assert_eq!(client.get("/api/room/room_a").pod(), "backend-0");
    assert_eq!(client.request(&page).status(), 302);
}

#[test]
fn the_redirect_can_be_told_otherwise_or_turned_off() {
    let stage = Stage::with(&["--redirect", "/play/=/game?p={pod}&r={room}&v=2"]);
    let location = |target: &str| load(&stage, "GET", target, BROWSER).head.value("location").map(str::to_owned);
    assert_eq!(location("/play/room_a").as_deref(), Some("/game?p=backend-0&r=room_a&v=2"));
    assert_eq!(location("/play/room_unknown").as_deref(), Some("/game?r=room_unknown&v=2"));
    assert_eq!(location("/experiment/room_a"), None);

    let stage = Stage::with(&["--redirect", "off"]);
    assert_eq!(load(&stage, "GET", "/experiment/room_a", BROWSER).pod(), "backend-0");
}
