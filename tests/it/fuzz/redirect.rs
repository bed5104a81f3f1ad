//! The 302's Location, judged by a browser's URL parser: it stays on the origin, under another prefix, and names the
//! same room and pod.

use http::Request;
use http::request::Parts;
use pod_router::core::assignment::{PodId, StatefulSet};
use pod_router::core::redirect::Redirect;
use pod_router::core::room::RoomId;
use url::Url;

use super::input::Input;

const PREFIXES: &[&str] = &["/experiment/", "/experiment/", "/", "/e", "/room_", "/a/b/", "//x", "/%65/", "/e?x"];

const TARGETS: &[&str] = &[
    "/experiment?roomId={room}&pod={pod}",
    "/experiment?roomId={room}&pod={pod}",
    "/live/{room}?pod={pod}",
    "/live/{room}",
    "/?pod={pod}&x=1&roomId={room}",
    "/./{room}?p={pod}",
    "/../e/{room}",
    "//evil.example/{room}",
    "/\\evil.example/{room}",
    "/x?u=https://evil.example/&roomId={room}",
    "/%2F%2Fevil.example/{room}",
    "/.//evil.example/{room}",
    "/{room}",
    "/{room}{room}?a={pod}{pod}",
    "/x?{room}={pod}",
    "/x#roomId={room}",
    "http://evil.example/{room}",
];

const TOKENS: &[&[u8]] = &[
    b"/",
    b"//",
    b"\\",
    b"..",
    b".",
    b"%2e",
    b"?",
    b"&",
    b"#",
    b"@",
    b":",
    b"{room}",
    b"{pod}",
    b"{",
    b"=",
    b"\t",
    b"\r\n",
    b"https:",
    b"/experiment/",
    b"%00",
];

const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

fn setting(input: &mut Input) -> String {
    let mut bytes = format!("{}={}", input.pick(PREFIXES), input.pick(TARGETS)).into_bytes();
    input.damage(&mut bytes, TOKENS);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn page_load(target: &str) -> Option<Parts> {
    let request = Request::get(target).header("host", "app.example").header("accept", BROWSER);
    Some(request.body(()).ok()?.into_parts().0)
}

/// The value of the parameter that the setting gives as `NAME={placeholder}`, where only one has that name.
fn parameter(setting: &str, placeholder: &str, location: &Url) -> Option<String> {
    let query = setting.split_once('=').and_then(|(_, target)| target.split_once('?')).map_or("", |(_, query)| query);
    let given: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let (name, _) = given.iter().find(|(_, value)| value == placeholder)?;
    if given.iter().filter(|(other, _)| other == name).count() > 1 || name.contains('{') {
        return None;
    }
    location.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn check(setting: &str, redirect: &Redirect, room: &RoomId<'_>, pod: Option<&PodId>) {
    let text = redirect.location(room, pod);
    let shown = format!("{setting:?} makes {text:?} of {room}");
    let base = Url::parse("https://app.example/experiment/room_x?y=z#f").expect("a URL");
    let location = base.join(&text).unwrap_or_else(|error| panic!("{error}: {shown}"));
    assert_eq!(location.origin(), base.origin(), "{shown}");
    assert_eq!((location.username(), location.fragment()), ("", None), "{shown}");
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{shown}");
    assert!(!text.contains("{room}") && !text.contains("{pod}"), "{shown}");
    assert!(text.contains(room.as_str()), "{shown}");
    if let Some(name) = parameter(setting, "{room}", &location) {
        assert_eq!(name, room.as_str(), "{shown}");
    }
    if let Some(named) = parameter(setting, "{pod}", &location) {
        assert_eq!(Some(named.as_str()), pod.map(PodId::as_str), "{shown}");
    }
    // Where the browser goes from there, as it normalises the path, it is not redirected again.
    let next = format!("{}?{}", location.path(), location.query().unwrap_or_default());
    let again = page_load(&next).is_some_and(|head| redirect.applies_to(&head, room));
    assert!(!again, "for ever: {shown}, then {next}");
}

#[test]
fn a_location_stays_on_the_origin_and_names_its_room() {
    let set = StatefulSet::parse("backend").expect("a name");
    super::run("redirect", 40_000, |input| {
        let setting = setting(input);
        let Ok(redirect) = setting.parse::<Redirect>() else {
            return false;
        };
        let text = match input.below(3) {
            0 => format!("room_{}", input.word(b"aZ09_-", 20)),
            1 => input.word(b"-_", 5),
            _ => input.word(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", 127),
        };
        let room = RoomId::parse(text.as_str()).expect("of the alphabet");
        let pod = set.nth(input.below(10_000) as u16);
        check(&setting, &redirect, &room, Some(&pod));
        check(&setting, &redirect, &room, None);
        true
    });
}

/// An `Accept` line, and whether it prefers HTML: the weights as decimals, which they are (RFC 9110 section 12.4.2).
fn accept(input: &mut Input) -> (String, bool) {
    let (mut html, mut other, mut ranges) = (0, 0, Vec::new());
    for _ in 0..input.below(5) {
        let media = input.pick(&["text/html", "TEXT/html", "*/*", "text/*", "application/json", "image/avif", ""]);
        let thousandths = input.below(1001);
        let (text, weight) = match input.below(5) {
            0 => (String::new(), 1000),
            1 => (format!(";q={}.{:03}", thousandths / 1000, thousandths % 1000), thousandths),
            2 => (format!(" ; level=1; Q=0.{}", thousandths % 10), 100 * (thousandths % 10)),
            3 => (input.pick(&[";q=0", ";q=-1", ";q=1.5", ";q=x", ";q=", ";q=NaN"]).to_owned(), 0),
            _ => (";q=1".to_owned(), 1000),
        };
        ranges.push(format!("{media}{text}"));
        let best = if media.eq_ignore_ascii_case("text/html") { &mut html } else { &mut other };
        *best = weight.max(*best);
    }
    (ranges.join(input.pick(&[",", ", ", " ,"])), html > 0 && html >= other)
}

#[test]
fn a_page_load_is_what_prefers_html() {
    let redirect: Redirect = "/experiment/=/experiment?roomId={room}&pod={pod}".parse().expect("the default");
    let room = RoomId::parse("room_a").expect("a room");
    super::run("page load", 40_000, |input| {
        let (accept, html) = accept(input);
        let method = input.pick(&["GET", "GET", "HEAD", "POST", "OPTIONS"]);
        let path = input.pick(&["/experiment/room_a", "/experiment/", "/experiment", "/experimental/room_a", "/"]);
        let request = Request::builder().method(method).uri(path).header("accept", &accept).body(()).expect("a head");
        let under = path.starts_with("/experiment/");
        let expected = html && under && ["GET", "HEAD"].contains(&method);
        let applies = redirect.applies_to(&request.into_parts().0, &room);
        assert_eq!(applies, expected, "{method} {path} with {accept:?}");
        applies
    });
}
