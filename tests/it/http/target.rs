//! The request target: it reaches the pod byte for byte, and is read as Socket.IO's server reads it.

use crate::support::Stage;

/// RFC 9110 section 7.7: a proxy must not modify the path and query when it forwards.
#[test]
fn rfc9110_7_7_the_target_goes_to_the_pod_byte_for_byte() {
    let stage = Stage::new();
    for target in [
        "/",
        "/?",
        "/x?",
        "/x??a=?",
        "/a%2Fb/%2e%2E/%7Ec",
        "//a//b/",
        "/a/../b/./c",
        "/..",
        "/a;b=c,d:e@f!$'()*+&=",
        "/%e2%82%AC/%zz/%",
        "/x?a=%20+&&b==c&;d",
        "/x?a={b}|c^`[]",
        "/x?next=http://evil/?q#",
        "/api/..%2f..//room/room_a/x/../?x=%2F?&",
        "/socket.io/?EIO=4&transport=polling&t=Oq%2B&roomId=room_a&",
    ] {
        let head = stage.get(target).json()["head"].as_str().unwrap_or_default().to_owned();
        // A fragment is no part of a target (RFC 9112 section 3.2).
        let expected = target.split('#').next().unwrap_or_default();
        assert_eq!(head.lines().next(), Some(format!("GET {expected} HTTP/1.1").as_str()));
    }
}

/// RFC 9112 section 3.2.4. That `http://b` without a path would be `*` as well is deviation 6: parsed, it is what
/// `http://b/` is, and a preflight of that must not become one of nothing.
#[test]
fn rfc9112_3_2_4_an_asterisk_stays_one_and_an_empty_path_is_a_slash() {
    let stage = Stage::new();
    for (target, line) in [("*", "OPTIONS * "), ("http://b", "OPTIONS / "), ("http://b/", "OPTIONS / ")] {
        assert_eq!(stage.request(format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n")).pod(), "any");
        let head = stage.any.received().pop().expect("answered").head;
        assert_eq!(head.start_line(), format!("{line}HTTP/1.1"), "{target}");
    }
}

#[test]
fn a_very_long_target_passes() {
    let stage = Stage::new();
    let target = format!("/x?{}", "a".repeat(15_000));
    let head = stage.get(&target).json()["head"].as_str().unwrap_or_default().to_owned();
    assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")));
}

/// What Socket.IO's own server makes of each query.
#[test]
fn a_query_names_the_room_that_socket_io_reads_in_it() {
    let stage = Stage::new();
    for (query, pod) in [
        ("roomId=room_a", "backend-0"),
        ("room%49d=room_a", "backend-0"),
        ("roomId=room%5Fa", "backend-0"),
        ("a=1&roomId=room%5fa&b", "backend-0"),
        ("roomId=room_a#x", "backend-0"),
        ("roomid=room_a", "any"),
        ("roomId[]=room_a", "any"),
        ("a=1;roomId=room_a", "any"),
        ("a=roomId=room_a", "any"),
        ("?roomId=room_a", "any"),
        ("", "any"),
    ] {
        assert_eq!(stage.get(&format!("/socket.io/?{query}")).pod(), pod, "{query}");
    }
}

/// What a path's segments have behind a `;` reaches the pod, and no log: it may be a session's id. Nor does what some
/// client has percent-encoded that should not be, or a password in front of a host.
#[test]
fn what_may_be_secret_in_a_path_is_not_logged() {
    let stage = Stage::new();
    let head = stage.get("/room_a;jsessionid=s3cret/b;v=s3cret").json()["head"].as_str().unwrap_or_default().to_owned();
    assert!(head.starts_with("GET /room_a;jsessionid=s3cret/b;v=s3cret HTTP/1.1\r\n"), "{head}");
    let response = stage.get("/x;jsessionid=s3cret/room%5Fa");
    assert_eq!(response.expect_error(400), "encoded-room");
    let line = stage.router.access_line(response.head.value("x-request-id").expect("an id"));
    assert_eq!(line["path"], "/x/room%5Fa");
    for (target, path) in
        [("/x%3Ftoken=s3cret", "/x"), ("/x%3bjsessionid=s3cret/y", "/x/y"), ("//user:s3cret@host/x", "//host/x")]
    {
        let id = format!("target-{}", fastrand::u64(..));
        stage.request(format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n"));
        assert_eq!(stage.router.access_line(&id)["path"], path, "{target}");
    }
    assert!(!stage.router.whole_output().contains("s3cret"));
}
