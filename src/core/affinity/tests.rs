use super::*;
use http::Request;

fn affinity(rules: &[&str]) -> Affinity {
    Affinity::new(rules.iter().map(|rule| rule.parse().expect(rule)).collect())
}

fn defaults() -> Affinity {
    affinity(&[r"path:room_[\w-]+", "query:roomId@/socket.io/"])
}

fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a valid head").into_parts().0
}

fn room(affinity: &Affinity, target: &str) -> Result<Option<String>, AffinityError> {
    Ok(affinity.room(&head(target, &[]))?.map(|(room, _)| room.to_string()))
}

#[test]
fn a_whole_path_segment_names_the_room() {
    let rules = defaults();
    for (target, expected) in [
        ("/experiment/room_xyz", Some("room_xyz")),
        ("/api/room/room_xyz/members?x=1", Some("room_xyz")),
        ("/room_a/room_b", Some("room_a")),
        ("//room_a", Some("room_a")),
        ("/experiment/room_xyz/", Some("room_xyz")),
        ("/experiment/room_", None),
        ("/experiment/xroom_a", None),
        ("/experiment/room_a;v=1", None),
        ("/experiment/room_a.b", None),
        ("/EXPERIMENT/ROOM_a", None),
        ("/experiment?roomId=room_a", None),
        ("/", None),
        ("*", None),
    ] {
        assert_eq!(room(&rules, target), Ok(expected.map(str::to_owned)), "{target}");
    }
    let long = format!("/experiment/room_{}", "x".repeat(124));
    assert_eq!(room(&rules, &long), Ok(None), "129 characters are no room");
}

/// Looking at how a segment begins takes no room away.
#[test]
fn a_rule_matches_with_its_lead_what_it_matches_without() {
    const SEGMENTS: [&str; 16] = [
        "room_", "room_a", "ROOM_a", "Room_a", "roo", "room", "roomroom", "live_1", "live-1", "l", "a", "ab", "abab",
        "-", "_a", "xroom_a",
    ];
    for (written, expected) in [
        (r"room_[\w-]+", "room_"),
        ("(?:room|roo)_?[a-z]*", "roo"),
        ("room|live_[0-9]", ""),
        ("(?i)room_[a-z]+", ""),
        ("(?:room)?_?a", ""),
        ("rooms?", "room"),
        ("(room)+", "room"),
        ("(?:ab){2}", "abab"),
        (r"^room\b_?\w*", "room"),
        ("(?x) room _ a", "room_a"),
        (r"\x72oom_a", "room_a"),
        ("[a-z]+|room_a", ""),
        ("", ""),
        (r"\broom_a|\Broom", "room"),
        ("a{0}b?", ""),
        (r"[^\s\S]", ""),
    ] {
        assert_eq!(String::from_utf8_lossy(&lead(written)), expected, "{written}");
        let Ok(pattern) = SegmentPattern::new(written) else {
            assert!(written.is_empty() || written == r"[^\s\S]");
            continue;
        };
        for segment in SEGMENTS {
            let whole = pattern.whole.is_match(segment);
            assert_eq!(pattern.matches(segment).is_some(), whole, "{written} of {segment}");
        }
    }
}

#[test]
fn a_room_that_shows_only_when_decoded_is_refused() {
    let rules = defaults();
    for target in [
        "/experiment/room%5Fxyz",
        "/experiment/%72oom_xyz",
        "/experiment%2Froom_xyz",
        "/experiment/x%2froom_xyz%2Fy",
        "/experiment/x%5Croom_xyz",
        "/experiment/x\\room_xyz",
        "/experiment\\room_xyz\\",
    ] {
        assert_eq!(room(&rules, target), Err(AffinityError::EncodedRoom), "{target}");
    }
    for target in ["/experiment/room%255Fxyz", "/a%20b", "/experiment/room_%00", "/%"] {
        assert_eq!(room(&rules, target), Ok(None), "{target}");
    }
}

#[test]
fn a_path_that_leads_to_another_room_once_resolved_is_refused() {
    let rules = defaults();
    for target in [
        "/api/room_a/../room_b",
        "/api/room_a/..",
        "/room_a/%2e%2E/room_b",
        "/room_a/.%2e/x",
        "/room_a/x/../../room_b",
        "/room_a/..%2froom_b",
        "/room_a/..\\room_b",
        // Resolved with the empty segment this is room_a still, and without it not.
        "/room_a//../x",
    ] {
        assert_eq!(room(&rules, target), Err(AffinityError::DotSegment), "{target}");
    }
    for (target, expected) in [
        ("/x/../room_b", Some("room_b")),
        ("/../room_b", Some("room_b")),
        ("/room_b/./x.js", Some("room_b")),
        ("/room_b/x/../y", Some("room_b")),
        ("/room_b/...", Some("room_b")),
        ("/room_b/x..y%20z", Some("room_b")),
        ("/room_a/../room_a", Some("room_a")),
        ("/x/../y", None),
    ] {
        assert_eq!(room(&rules, target), Ok(expected.map(str::to_owned)), "{target}");
    }
}

/// The table of what Socket.IO's own server makes of these queries (Node 20, `URLSearchParams`).
#[test]
fn a_query_is_decoded_as_socket_io_decodes_it() {
    let rules = defaults();
    for (query, expected) in [
        ("roomId=room_a", Ok(Some("room_a"))),
        ("EIO=4&transport=polling&roomId=room_a&sid=x", Ok(Some("room_a"))),
        ("room%49d=room_x", Ok(Some("room_x"))),
        ("roomId=room%5Fx", Ok(Some("room_x"))),
        ("roomId=room+x", Err(AffinityError::InvalidRoom)),
        ("roomId=room%2Bx", Err(AffinityError::InvalidRoom)),
        ("roomId=", Err(AffinityError::InvalidRoom)),
        ("roomId", Err(AffinityError::InvalidRoom)),
        ("roomId=%FF", Err(AffinityError::InvalidRoom)),
        ("roomid=room_x", Ok(None)),
        ("roomId[]=room_x", Ok(None)),
        ("a=1;roomId=room_y", Ok(None)),
        ("roomId=room_a&roomId=room_a", Err(AffinityError::DuplicateRoom)),
        ("roomId=room_a&room%49d=room_b", Err(AffinityError::DuplicateRoom)),
        ("sid=a&sid=b&roomId=room_a", Err(AffinityError::DuplicateSid)),
        ("sid=a&s%69d=b", Err(AffinityError::DuplicateSid)),
        ("", Ok(None)),
    ] {
        assert_eq!(
            room(&rules, &format!("/socket.io/?{query}")),
            expected.map(|room| room.map(str::to_owned)),
            "{query}"
        );
    }
}

#[test]
fn a_prefix_limits_a_rule() {
    let rules = defaults();
    assert_eq!(room(&rules, "/api/x?roomId=room_a"), Ok(None));
    assert_eq!(room(&rules, "/socket.io?roomId=room_a"), Ok(Some("room_a".to_owned())));
    assert_eq!(room(&rules, "/socket.iox?roomId=room_a"), Ok(None));
    assert_eq!(room(&rules, "/%73ocket.io/?roomId=room_a"), Err(AffinityError::EncodedRoom));
    let everywhere = affinity(&["query:roomId"]);
    assert_eq!(room(&everywhere, "/api/x?roomId=room_a"), Ok(Some("room_a".to_owned())));
}

#[test]
fn headers_and_cookies_name_one_room_or_none() {
    let rules = affinity(&["header:X-Room", "cookie:room@/app/"]);
    let found = |target: &str, headers: &[(&str, &str)]| {
        rules.room(&head(target, headers)).map(|found| found.map(|(room, index)| (room.to_string(), index)))
    };
    assert_eq!(found("/", &[("x-room", " room_a ")]), Ok(Some(("room_a".to_owned(), 0))));
    assert_eq!(found("/", &[("x-room", "a"), ("x-room", "a")]), Err(AffinityError::DuplicateRoom));
    assert_eq!(found("/", &[("x-room", "a,b")]), Err(AffinityError::InvalidRoom));
    assert_eq!(found("/", &[("x-room", "a"), ("x_room", "b")]), Err(AffinityError::DuplicateRoom));
    assert_eq!(found("/", &[("x_room", "b")]), Err(AffinityError::EncodedRoom));
    assert_eq!(found("/", &[("x-roomy", "b"), ("x.room", "c")]), Ok(None));
    assert_eq!(found("/", &[("cookie", "room=a")]), Ok(None));
    assert_eq!(found("/app/x", &[("cookie", "y=1; room=a;z=2")]), Ok(Some(("a".to_owned(), 1))));
    assert_eq!(found("/app/", &[("cookie", "y=\u{e9}; room=a")]), Ok(Some(("a".to_owned(), 1))));
    assert_eq!(found("/app/", &[("cookie", "room=\u{e9}")]), Err(AffinityError::InvalidRoom));
    assert_eq!(found("/app/", &[("cookie", "room=a"), ("cookie", "room=b")]), Err(AffinityError::DuplicateRoom));
    assert_eq!(found("/app/", &[("cookie", "room=\"a\"")]), Err(AffinityError::InvalidRoom));
}

/// Browsers send what a page has set, and a cookie that is not seen is a room that is split.
#[test]
fn a_cookie_is_found_among_others_of_any_bytes() {
    let rules = affinity(&["cookie:room"]);
    let found = |line: &[u8]| {
        let mut head = head("/", &[]);
        head.headers
            .insert(http::header::COOKIE, http::HeaderValue::from_bytes(line).expect("bytes that a field may hold"));
        rules.room(&head).map(|found| found.map(|(room, _)| room.to_string()))
    };
    let a = Ok(Some("a".to_owned()));
    assert_eq!(found("name=Zoë; room=a; rooms=b".as_bytes()), a);
    assert_eq!(found(b"x=\xff\xfe;room=a"), a);
    assert_eq!(found(b"room=a\xff"), Err(AffinityError::InvalidRoom));
    assert_eq!(found("room=ä".as_bytes()), Err(AffinityError::InvalidRoom));
    assert_eq!(found(b"\xff=x; roo=m"), Ok(None));
    // RFC 6265 section 5.2, and so npm's `cookie` and Python's `SimpleCookie`.
    assert_eq!(found(b"room = a ;x"), a);
    assert_eq!(found(b"room=a; room\t=b"), Err(AffinityError::DuplicateRoom));
}

#[test]
fn the_first_rule_wins_and_an_unusable_source_ends_the_search() {
    let rules = affinity(&["query:r", "path:room_[a-z]+"]);
    assert_eq!(room(&rules, "/room_p?r=room_q"), Ok(Some("room_q".to_owned())));
    assert_eq!(room(&rules, "/room_p"), Ok(Some("room_p".to_owned())));
    assert_eq!(room(&rules, "/room_p?r="), Err(AffinityError::InvalidRoom));
}

#[test]
fn rules_are_written_back_as_they_were_read() {
    for text in [
        r"path:room_[\w-]+",
        "path:[^/]+",
        r"path:\S*",
        "path:(?i)(room|raum)[^x]?(?:/x)*",
        "query:roomId@/socket.io/",
        "header:x-room",
        "cookie:r@/a",
    ] {
        let rule: AffinityRule = text.parse().expect(text);
        assert_eq!(rule.to_string(), text);
    }
}

#[test]
fn wrong_rules_say_what_is_wrong() {
    for (text, part) in [
        ("room", "path:REGEX"),
        ("body:x", "path:REGEX"),
        ("path:", "missing"),
        ("path:a(", "regular expression"),
        ("path:a)|(b", "regular expression"),
        ("query:", "missing"),
        ("query:a@b", "slash"),
        ("header:a b", "header name"),
        ("header:Connection", "meaning of its own"),
        ("cookie:a=b", "cookie's name"),
        ("query:a@/b?c", "before ?"),
        (r"path:room/\d+", "matches no room id"),
        (r"path:^/room/(\w+)$", "matches no room id"),
        (r"path:\w+@/api/", "matches no room id"),
        ("path:%41", "matches no room id"),
        ("path:\u{e9}+", "matches no room id"),
        (r"path:\d+\.html", "matches no room id"),
        (r"path:(?:a/b|[^\w-]+)", "matches no room id"),
    ] {
        let error = text.parse::<AffinityRule>().expect_err(text);
        assert!(error.contains(part), "{text}: {error}");
        assert!(!error.contains('\n'), "{text}: {error}");
    }
}

/// `/socket%2eio/` is `/socket.io/` to many a backend, which then finds the room that the router would not.
#[test]
fn a_rules_prefix_cannot_be_got_around() {
    let rules = Affinity::new(vec!["query:roomId@/socket.io/".parse().expect("a rule")]);
    let room = |target: &str| {
        let head = http::Request::get(target).body(()).expect("a request").into_parts().0;
        rules.room(&head).map(|found| found.map(|(room, _)| room.to_string()))
    };
    assert_eq!(room("/socket.io/?roomId=room_a"), Ok(Some("room_a".to_owned())));
    for path in ["/socket%2eio/", "/%73ocket.io", "/x/../socket.io/", "//socket.io/", "/.//socket.io/x"] {
        for query in ["roomId=room_a", "roomId=no%20room", "roomId=a&roomId=b"] {
            assert_eq!(room(&format!("{path}?{query}")), Err(AffinityError::EncodedRoom), "{path}?{query}");
        }
        assert_eq!(room(&format!("{path}?x=room_a")), Ok(None), "{path}");
    }
    for elsewhere in ["/socket%2eiox/", "/x/socket.io/", "/a.js"] {
        assert_eq!(room(&format!("{elsewhere}?roomId=room_a")), Ok(None), "{elsewhere}");
    }
}
