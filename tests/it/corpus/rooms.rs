//! Rooms in every encoding and place, Socket.IO's queries, page loads, forwarded headers.

use super::case::{Case, made, text};

const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

pub(super) fn cases() -> Vec<Case> {
    [paths(), queries(), pages(), claims()].into_iter().flatten().collect()
}

fn get(name: &'static str, target: &str) -> Case {
    made(name, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
}

/// A target that could be read as two different rooms, or as one only after decoding.
fn ambiguous(name: &'static str, target: &str) -> Case {
    get(name, target).answers(&[400]).open()
}

fn paths() -> Vec<Case> {
    let longest = format!("/room_{}", "x".repeat(123));
    vec![
        get("a room at the end", "/api/room/room_b").passes("backend-1 GET /api/room/room_b"),
        get("a room in the middle", "/api/room_b/x").passes("backend-1 GET /api/room_b/x"),
        get("a slash behind it", "/room_b/").passes("backend-1 GET /room_b/"),
        get("two rooms: the first", "/room_b/room_a").passes("backend-1 GET /room_b/room_a"),
        get("slashes in front", "///room_b").passes("backend-1 GET ///room_b"),
        ambiguous("a step up to another room", "/room_b/../room_a"),
        ambiguous("a step up from the room", "/room_b/.."),
        ambiguous("an encoded step up", "/api/room_b/%2e%2E/room_a"),
        get("a step within the room", "/room_b/x/../y").passes("backend-1 GET /room_b/x/../y"),
        get("a step to the room", "/x/../room_b").passes("backend-1 GET /x/../room_b"),
        get("dots that are no step", "/room_b/./...").passes("backend-1 GET /room_b/./..."),
        get("a parameter makes it another segment", "/room_b;v=1").passes("any GET /room_b;v=1"),
        get("a fragment with the only room", "/x#/room_b").passes("any GET /x"),
        get("a fragment at once", "/#room_b").passes("any GET /"),
        get("an encoded one is none", "/x%23/room_b").passes("backend-1 GET /x%23/room_b"),
        get("capitals", "/ROOM_b").passes("any GET /ROOM_b"),
        get("a room that the directory does not know", "/room_unknown").passes("any GET /room_unknown"),
        get("the longest id", &longest).sees_long(format!("any GET {longest}")).answers(&[200]).open(),
        get("a longer one is no room", &format!("{longest}y"))
            .sees_long(format!("any GET {longest}y"))
            .answers(&[200])
            .open(),
        ambiguous("an encoded underscore", "/room%5fb"),
        ambiguous("an encoded letter", "/%72oom_b"),
        ambiguous("an encoded slash in front", "/x%2froom_b"),
        ambiguous("an encoded backslash in front", "/x%5Croom_b"),
        ambiguous("a backslash in front", "/x\\room_b"),
        get("encoded twice is no room", "/room%255Fb").passes("any GET /room%255Fb"),
        get("an encoded line end", "/room_b%0d%0aX:%20y").passes("any GET /room_b%0d%0aX:%20y"),
        get("an encoded NUL", "/room_b%00").passes("any GET /room_b%00"),
        get("an overlong underscore", "/room%c1%9fb").passes("any GET /room%c1%9fb"),
    ]
}

fn queries() -> Vec<Case> {
    vec![
        get("Socket.IO", "/socket.io/?EIO=4&transport=polling&roomId=room_b")
            .passes("backend-1 GET /socket.io/?EIO=4&transport=polling&roomId=room_b"),
        get("an encoded name and value", "/socket.io/?room%49d=room%5Fb")
            .passes("backend-1 GET /socket.io/?room%49d=room%5Fb"),
        get("a fragment with another room", "/socket.io/?roomId=room_b#&roomId=room_a")
            .passes("backend-1 GET /socket.io/?roomId=room_b"),
        get("another place", "/other/?roomId=room_b").passes("any GET /other/?roomId=room_b"),
        get("another name", "/socket.io/?roomid=room_b").passes("any GET /socket.io/?roomid=room_b"),
        get("a semicolon is no separator", "/socket.io/?a=1;roomId=room_b")
            .passes("any GET /socket.io/?a=1;roomId=room_b"),
        ambiguous("the room twice", "/socket.io/?roomId=room_a&roomId=room_b"),
        ambiguous("the room twice, once encoded", "/socket.io/?roomId=room_a&room%49%64=room_b"),
        ambiguous("the sid twice", "/socket.io/?sid=a&roomId=room_a&sid=b"),
        ambiguous("a plus is a space", "/socket.io/?roomId=room+b"),
        ambiguous("an empty room", "/socket.io/?roomId="),
        ambiguous("a line end in it", "/socket.io/?roomId=room_b%0d%0a"),
        ambiguous("a Redis key's colon in it", "/socket.io/?roomId=room_b:pod"),
    ]
}

fn pages() -> Vec<Case> {
    let page = |name, target: &str, accept: &str| {
        made(name, format!("GET {target} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n"))
    };
    vec![
        page("a page load", "/experiment/room_b", BROWSER).answers(&[302]).open(),
        page("a page load of an API client", "/experiment/room_b", "application/json")
            .passes("backend-1 GET /experiment/room_b"),
        page("anything will do", "/experiment/room_b", "*/*").passes("backend-1 GET /experiment/room_b"),
        page("HTML of quality 0", "/experiment/room_b", "text/html;q=0").passes("backend-1 GET /experiment/room_b"),
        page("a quality that is none", "/experiment/room_b", "text/html;q=x")
            .passes("backend-1 GET /experiment/room_b"),
        page("an Accept without end", "/experiment/room_b", &"text/html;".repeat(1000)).answers(&[302]).open(),
        page("a page load of an ambiguous room", "/experiment/room%5Fb", BROWSER).answers(&[400]).open(),
        made(
            "a page load with a body",
            format!("GET /experiment/room_b HTTP/1.1\r\nHost: a\r\nAccept: {BROWSER}\r\nContent-Length: 35\r\n\r\n"),
        )
        .more("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        .answers(&[302])
        .closed(),
    ]
}

/// The pod's own tests of what it gets are in `conformance`; here the forms that could upset somebody.
fn claims() -> Vec<Case> {
    let with = |name, line: &str| {
        made(name, format!("GET /room_b HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n")).passes("backend-1 GET /room_b")
    };
    vec![
        with("a chain of nothing", "X-Forwarded-For: ,, ,"),
        with(
            "a chain of nonsense",
            "X-Forwarded-For: unknown, _hidden, 1.2.3.4:80, [::1]:9, ::1%lo, 999.1.1.1, \u{e9}",
        ),
        with("a chain without end", &format!("X-Forwarded-For: {}", "1.2.3.4, ".repeat(3000))),
        with("a chain on many lines", "X-Forwarded-For: 10.0.0.1\r\n".repeat(90).trim_end()),
        with("a scheme of two", "X-Forwarded-Proto: https, wss"),
        with("RFC 7239", "Forwarded: for=\"[::1]\";proto=https, for=evil"),
        with("a room of one's own", "X-Room-Id: room_a\r\nX_Room_Id: room_a\r\nX-Room-Pod: backend-0"),
        text("a request id of odd bytes", "GET /room_b HTTP/1.1\r\nHost: a\r\nX-Request-Id: \"a b\"\r\n\r\n")
            .passes("backend-1 GET /room_b"),
    ]
}
