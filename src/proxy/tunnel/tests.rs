//! A direction that is stuck, and the moments at which tunnels end in a drain.

use super::*;

#[tokio::test]
async fn who_takes_a_little_is_not_stuck() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut reader = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
    let mut sink = listener.accept().await.expect("it has connected").0;
    // More than the kernel takes at once.
    let mut direction = Direction::to_client(vec![7; 64 * 1024 * 1024], 0, Instant::now());
    let mut flush = |sink: &mut TcpStream| {
        let (mut cx, mut moved) = (Context::from_waker(std::task::Waker::noop()), 0);
        assert!(direction.flush(&mut cx, sink, &mut moved).is_pending());
        (moved, direction.stalled_at(Duration::ZERO).expect("not all was taken"))
    };
    let (_, before) = flush(&mut sink);
    let mut buffer = vec![0; 1024 * 1024];
    while tokio::select! {
        read = tokio::io::AsyncReadExt::read(&mut reader, &mut buffer) => read.expect("there is more") > 0,
        _ = sink.writable() => false,
    } {}
    let (moved, after) = flush(&mut sink);
    assert!(moved > 0 && after > before);
}

/// Taken in pieces as well, of which one holds its end.
#[tokio::test]
async fn the_101_is_none_of_the_tunnels_bytes() {
    const ALL: usize = 16 * 1024 * 1024;
    for (all, head) in [(10, 4), (10, 10), (ALL, ALL / 2 + 1)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut reader = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
        let mut sink = listener.accept().await.expect("it has connected").0;
        let mut direction = Direction::to_client(vec![7; all], head, Instant::now());
        let (mut moved, mut pieces) = (0, 0);
        let flushed = std::future::poll_fn(|cx| {
            pieces += 1;
            direction.flush(cx, &mut sink, &mut moved)
        });
        let mut read = vec![0; all];
        let (flushed, _) = tokio::join!(flushed, tokio::io::AsyncReadExt::read_exact(&mut reader, &mut read));
        flushed.expect("it is read");
        assert_eq!((moved, direction.bytes), ((all - head) as u64, (all - head) as u64));
        assert!(all < ALL || pieces > 1, "it was taken at once");
    }
}

#[test]
fn whenever_a_tunnel_begins_it_ends_within_the_drain() {
    let (since, window) = (Instant::now(), Duration::from_secs(30));
    for begins in [0, 1, 20, 29, 31].map(|seconds| since + Duration::from_secs(seconds)) {
        for roll in [0.0, 0.5, 1.0] {
            let ends = drain_moment(since, window, begins, roll);
            assert!(ends >= begins && (ends < since + window || ends == begins), "{begins:?} {roll} {ends:?}");
        }
    }
    assert_eq!(drain_moment(since, window, since, 0.5), since + window.mul_f64(0.45), "spread over the window");
}
