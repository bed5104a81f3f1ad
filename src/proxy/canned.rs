//! Answers to what never became a request: a head that cannot be read or does not come, a connection too many.
//!
//! They are like all others of the router's own, from the same table (`reject.rs`), with an id, and an access line with it;
//! that has no method and no path, because nobody knows them. They are apart because hyper writes none of them.

use std::cell::RefCell;
use std::net::IpAddr;

use bytes::BytesMut;
use http::HeaderValue;

use super::record::CUT_OFF;
use super::reject::{Answer, HEAD_TOO_LARGE, TARGET_TOO_LONG, UNREADABLE};

/// So many ids share an allocation, because each is cloned, and the first clone of one that has its own makes a second. Few,
/// because one that lives on keeps the space of all.
const TOGETHER: usize = 8;

thread_local! {
    /// The space for the next ids.
    static SPACE: RefCell<BytesMut> = RefCell::default();
}

/// One such answer, to one client.
#[derive(Debug)]
pub struct Unheard {
    answer: &'static Answer,
    id: HeaderValue,
}

/// The answer that says what hyper would say with this head, with everything that ours have.
pub(super) fn instead_of(hypers: &[u8]) -> Option<&'static Answer> {
    let status = hypers.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    [&UNREADABLE, &HEAD_TOO_LARGE, &TARGET_TOO_LONG].into_iter().find(|own| own.status.as_str().as_bytes() == status)
}

impl Unheard {
    /// This answer, under a new id.
    pub fn new(answer: &'static Answer) -> Self {
        Self { answer, id: new_id() }
    }

    /// All of it as bytes. `hypers` is the head that it takes the place of, whose date it keeps.
    pub fn bytes(&self, hypers: &[u8]) -> Vec<u8> {
        let Answer { status, code, message } = self.answer;
        let id = self.id.to_str().unwrap_or_default();
        let retry = if self.answer.may_pass() { "retry-after: 1\r\n" } else { "" };
        let date = std::str::from_utf8(hypers).unwrap_or_default().lines().find(|line| line.starts_with("date: "));
        let date = date.map(|date| format!("{date}\r\n")).unwrap_or_default();
        let body = format!(r#"{{"error":"{code}","message":"{message}","requestId":"{id}"}}"#);
        let head = format!(
            "HTTP/1.1 {status}\r\nx-pod-router-error: {code}\r\nx-request-id: {id}\r\n{retry}connection: close\r\n\
             cache-control: no-store\r\n{date}content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        (head + &body).into()
    }

    /// Its code.
    pub fn code(&self) -> &'static str {
        self.answer.code
    }

    /// Writes the access line of an answer that was sent.
    pub fn log(&self, client: IpAddr) {
        self.log_with(self.answer.status.as_u16(), client);
    }

    /// The same where the connection ended without it.
    pub fn log_unanswered(&self, client: IpAddr) {
        self.log_with(CUT_OFF, client);
    }

    fn log_with(&self, status: u16, client: IpAddr) {
        tracing::info!(
            target: "pod_router::access",
            request_id = self.id.to_str().unwrap_or_default(),
            kind = "http",
            status,
            source = "none",
            error = self.answer.code,
            %client,
            "request"
        );
    }
}

/// A new request id: 128 random bits.
pub(super) fn new_id() -> HeaderValue {
    let mut bits = fastrand::u128(..);
    let digits = [(); 32].map(|()| {
        let digit = b"0123456789abcdef"[(bits & 0xf) as usize];
        bits >>= 4;
        digit
    });
    let id = SPACE.with_borrow_mut(|space| {
        if space.capacity() < digits.len() && !space.try_reclaim(TOGETHER * digits.len()) {
            *space = BytesMut::with_capacity(TOGETHER * digits.len());
        }
        space.extend_from_slice(&digits);
        space.split().freeze()
    });
    HeaderValue::from_maybe_shared(id).expect("hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::reject::{ALL, CODES};

    #[test]
    fn the_canned_answers_are_well_formed() {
        for answer in ALL {
            let unheard = Unheard::new(answer);
            let text = String::from_utf8(unheard.bytes(b"")).expect("ASCII");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
            let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
            let code = body["error"].as_str().expect("a code");
            assert!(CODES.contains(&code) && head.contains(&format!("x-pod-router-error: {code}\r\n")));
            assert!(head.contains(&format!("\r\nx-request-id: {}\r\n", body["requestId"].as_str().expect("an id"))));
        }
    }

    /// Some go at once, some live on beside those that come after them.
    #[test]
    fn ids_that_share_space_stay_as_they_are() {
        let mut kept = Vec::new();
        for number in 0..500 {
            let id = new_id();
            assert!(id.len() == 32 && id.as_bytes().iter().all(u8::is_ascii_hexdigit), "{id:?}");
            if number % 20 > 9 && number % 3 == 0 {
                kept.push((id.to_str().expect("ASCII").to_owned(), id.clone()));
            }
        }
        assert!(kept.iter().all(|(text, id)| id == text.as_str()));
        kept.sort_by(|one, other| one.0.cmp(&other.0));
        kept.dedup_by(|one, other| one.0 == other.0);
        assert_eq!(kept.len(), (0..500).filter(|number| number % 20 > 9 && number % 3 == 0).count());
    }

    #[test]
    fn hypers_answers_are_replaced_and_their_date_is_kept() {
        let hypers = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: today\r\n\r\n";
        assert_eq!(instead_of(hypers), Some(&UNREADABLE));
        let text = String::from_utf8(Unheard::new(&UNREADABLE).bytes(hypers)).expect("ASCII");
        assert!(text.contains("\r\ndate: today\r\n") && text.matches("content-length").count() == 1, "{text}");
        assert_eq!(instead_of(b"HTTP/1.1 414 URI Too Long\r\n"), Some(&TARGET_TOO_LONG));
        for other in [&b"HTTP/1.1 200 OK\r\n"[..], b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 4", b""] {
            assert_eq!(instead_of(other), None);
        }
    }
}
