//! The affinity cookie's value: what stands for a pod of a backend, made and checked with `--affinity-key`.
//!
//! It is a signature of the backend's prefix and of the pod, by which only a holder of the key can find it, and which means
//! nothing to another backend. The value for a pod of the StatefulSet says its name as well, `NAME.SIGNATURE`: the name is no
//! secret, a `sid` has it too, and with it a replica that does not list the pod knows all the same whom it stands for.

use std::fmt::Write as _;

use ring::hmac;

use crate::config::{CookieConfig, RoutingConfig};
use crate::core::assignment::{PodId, StatefulSet};

/// How many bytes of the signature a cookie carries: enough that none is guessed.
const TAG: usize = 16;

/// Between a pod's name and the signature: in neither of them.
const SEPARATOR: char = '.';

/// Makes the cookies' values, and knows its own.
#[derive(Clone, Debug)]
pub struct Signer {
    key: hmac::Key,
    statefulset: StatefulSet,
}

impl Signer {
    /// With the key of these settings.
    pub fn new(cookie: &CookieConfig, routing: &RoutingConfig) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, cookie.key.0.as_bytes());
        Self { key, statefulset: routing.statefulset.clone() }
    }

    /// The value for the pod of this origin (its name or its address) among those of the backend with this prefix.
    pub fn value(&self, prefix: &str, origin: &str) -> String {
        let tag = self.tag(prefix, origin);
        // However it is listed now: behind a name that is not its own it is the same pod.
        if self.statefulset.pod(origin).is_some() { format!("{origin}{SEPARATOR}{tag}") } else { tag }
    }

    /// The pod of the StatefulSet that a value names, if that has been signed for the backend with this prefix.
    pub fn pod(&self, prefix: &str, value: &str) -> Option<PodId> {
        let (name, tag) = value.split_once(SEPARATOR)?;
        if tag.len() != 2 * TAG {
            return None;
        }
        let pod = self.statefulset.pod(name)?;
        // The signatures of both are compared, and in constant time: how soon they differ says nothing of the right one.
        let right = hmac::sign(&self.key, self.tag(prefix, name).as_bytes());
        hmac::verify(&self.key, tag.as_bytes(), right.as_ref()).is_ok().then_some(pod)
    }

    /// Whether a value is of the form that says a pod's name.
    pub fn has_name(value: &str) -> bool {
        value.contains(SEPARATOR)
    }

    fn tag(&self, prefix: &str, origin: &str) -> String {
        let signature = hmac::sign(&self.key, format!("{prefix} {origin}").as_bytes());
        signature.as_ref()[..TAG].iter().fold(String::with_capacity(2 * TAG), |mut tag, byte| {
            // A String takes whatever it is given.
            let _ = write!(tag, "{byte:02x}");
            tag
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Command, Config, parse};

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn signer(key: &str) -> Signer {
        let words = ["pod-router", "--affinity-cookie", "c", "--affinity-key", key];
        let Ok(Command::Serve(config)) = parse(words.map(Into::into), [], false) else { panic!("they are settings") };
        let Config { backends, routing, .. } = &*config;
        Signer::new(backends.session.cookie.as_ref().expect("there is one"), routing)
    }

    #[test]
    fn a_value_says_the_name_of_a_pod_and_no_address() {
        let signer = signer(KEY);
        let named = signer.value("", "backend-1");
        assert_eq!(named.strip_prefix("backend-1.").map(str::len), Some(2 * TAG), "{named}");
        for origin in ["10.0.0.1:3000", "service:1", "backend-01", "other-1"] {
            let value = signer.value("", origin);
            assert!(value.len() == 2 * TAG && value.bytes().all(|byte| byte.is_ascii_hexdigit()), "{origin}: {value}");
        }
    }

    #[test]
    fn only_the_key_names_a_pod() {
        let signer = signer(KEY);
        let value = signer.value("/api/", "backend-1");
        let pod = |prefix: &str, value: &str| signer.pod(prefix, value).map(|pod| pod.to_string());
        assert_eq!(pod("/api/", &value).as_deref(), Some("backend-1"));
        assert_eq!(pod("", &value), None, "another backend's");
        assert_eq!(self::signer(&KEY.to_uppercase()).pod("/api/", &value), None, "another key's");
        let tag = &value["backend-1.".len()..];
        let last = if tag.ends_with('0') { "1" } else { "0" };
        for forged in [
            format!("backend-2.{tag}"),
            format!("backend-1.{}{last}", &tag[..2 * TAG - 1]),
            format!("backend-1.{}", tag.to_uppercase()),
            format!("backend-1.{}", &tag[1..]),
            format!("backend-1.{tag}0"),
            format!("backend-1.x.{tag}"),
            format!("evil.example.{tag}"),
            format!(".{tag}"),
            "backend-1.".to_owned(),
            "backend-1".to_owned(),
            tag.to_owned(),
        ] {
            assert_eq!(pod("/api/", &forged), None, "{forged}");
        }
        // What an address has is no name, whatever it is put behind.
        let address = signer.value("/api/", "10.0.0.1:1");
        assert_eq!(pod("/api/", &format!("10.0.0.1:1.{address}")), None);
    }
}
