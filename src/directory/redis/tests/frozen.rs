//! A server that neither answers nor goes away.

use super::*;

#[tokio::test]
async fn a_frozen_server_is_noticed_and_its_return_too() {
    let redis = Server::start(&[]);
    redis.set("room:room_a:pod", r#"{"podId":"backend-1","assignedAt":7}"#);
    let directory = connected(&redis.url()).await;
    // Shorter than it takes to replace the connection, and longer.
    for frozen in [Duration::from_millis(1200), Duration::from_secs(4)] {
        redis.signal("STOP");
        let start = Instant::now();
        while directory.is_up() {
            assert_ne!(directory.lookup(&room("room_a")).await, Ok(assigned(1, 7)));
            assert!(start.elapsed() < PATIENCE, "it is not noticed");
        }
        tokio::time::sleep(frozen.saturating_sub(start.elapsed())).await;
        hundred_lookups_fail(&directory).await;

        redis.signal("CONT");
        until("up", async || directory.lookup(&room("room_a")).await == Ok(assigned(1, 7))).await;
    }
}

/// Nobody above has a deadline for them.
#[tokio::test]
async fn each_question_ends_by_its_deadline_itself() {
    let redis = Server::start(&[]);
    let directory = connected(&redis.url()).await;
    redis.signal("STOP");
    let (room, pod) = (room("room_a"), backend().nth(1));
    let asked = async {
        let claims = async { tokio::join!(directory.claim(&room, &pod, Epoch(0)), directory.try_claiming()) };
        tokio::join!(directory.lookup(&room), claims, directory.heartbeats())
    };
    let answers = tokio::time::timeout(Duration::from_secs(20), asked).await.expect("each has a deadline");
    let late = DirectoryError::Timeout;
    assert_eq!(answers, (Err(late.clone()), (Err(late.clone()), Err(late.clone())), Err(late)));
}
