//! How a head is collected, and what of a request is left when no pod has taken any of it.

use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpListener;

use super::*;
use crate::core::wire::request::Framing;
use crate::proxy::upload::tests::{received, run};
use crate::proxy::upstream::tests::{lease, pool};

#[test]
fn a_head_in_tiny_pieces_is_seldom_copied() {
    let piece = Bytes::from_static(b"x");
    let (mut received, mut moves) = (Bytes::new(), 0);
    for _ in 0..MAX_HEAD {
        let before = received.as_ptr();
        received = append(received, Bytes::copy_from_slice(&piece));
        moves += usize::from(received.as_ptr() != before);
    }
    assert_eq!(received, vec![b'x'; MAX_HEAD]);
    assert!(moves < 50, "moved {moves} times");
}

/// Only that may go to another pod.
#[test]
fn what_has_not_been_sent_is_given_back() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let (pool, address) = (pool(), listener.local_addr().expect("a bound socket").to_string());
        let endpoint = pool.listed("pod", &address.parse().expect("an address"));
        for (reads, expected) in [(false, (Stage::Send, false)), (true, (Stage::Head, true))] {
            let mut lease = lease(&pool, &endpoint).await.expect("somebody listens");
            let (mut pod, _) = listener.accept().await.expect("it was dialled");
            let resets = async {
                if reads {
                    pod.read_exact(&mut [0; 15]).await.expect("the request comes");
                }
                socket2::SockRef::from(&pod).set_linger(Some(Duration::ZERO)).expect("a live socket");
                drop(pod);
            };
            let (mut upload, _client) = received("", "", Framing::None).await;
            upload.address(None);
            let patience = Duration::from_secs(3600);
            let patience = Patience { response: patience, request_body: patience, response_body: None };
            let (method, mut map, mut unsent, over) = (Method::POST, HeaderMap::new(), None, Youth::over());
            let failure = if reads {
                let exchange = Exchange::new(lease, upload, patience);
                tokio::join!(exchange.begin(&method, &mut map, &mut unsent, &over), resets).0
            } else {
                resets.await;
                lease.stream().ready(Interest::ERROR).await.expect("it is told");
                Exchange::new(lease, upload, patience).begin(&method, &mut map, &mut unsent, &over).await
            };
            let failure = failure.expect_err("the pod has gone");
            assert_eq!((failure.stage, failure.sent), expected);
            assert_eq!(unsent.is_some(), !failure.sent);
        }
    });
}
