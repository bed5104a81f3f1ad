//! Rooms that nobody has, and the pods that are chosen for them.

use super::*;

#[tokio::test]
async fn placing_spreads_rooms_between_two_heartbeats() {
    let case = Case::new(HOUR, HOUR, HOUR, Answer::Unassigned);
    let limits = Limits { rooms: 20, participants: 80 };
    let mut pods = std::collections::BTreeMap::<PodId, usize>::new();
    for number in 0..6 {
        case.says(Ok(Answer::Unassigned));
        let placed = case.resolver.place(&room(&format!("room_{number}")), limits, 0).await;
        let Ok(Resolution::Fresh(Answer::Assigned(assignment))) = placed else {
            panic!("not placed: {placed:?}");
        };
        *pods.entry(assignment.pod).or_default() += 1;
    }
    assert_eq!(pods.into_values().collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(case.asked(), 1, "the heartbeats are read once");
}

#[tokio::test]
async fn a_room_is_placed_once_however_many_ask() {
    let case = Case::new(HOUR, HOUR, HOUR, Answer::Unassigned);
    let limits = Limits { rooms: 1, participants: 80 };
    let asking: Vec<_> = (0..100)
        .map(|roll| {
            let resolver = case.resolver.clone();
            tokio::spawn(async move { resolver.place(&room("room_a"), limits, roll).await })
        })
        .collect();
    let mut placed = Vec::new();
    for asking in asking {
        placed.push(asking.await.expect("no panic").expect("there is space for one room in each of three pods"));
    }
    placed.dedup();
    assert_eq!(placed.len(), 1);
}

#[tokio::test]
async fn a_room_that_somebody_else_placed_first_stays_there() {
    let case = Case::new(HOUR, HOUR, HOUR, assigned(2, 7));
    let limits = Limits { rooms: 20, participants: 80 };
    let placed = case.resolver.place(&room("room_a"), limits, 0).await;
    assert_eq!(placed, Ok(Resolution::Fresh(assigned(2, 7))));
    assert_eq!(case.resolves().await, Resolution::Fresh(assigned(2, 7)));
}

/// Where it has lost the room, its clock may be behind what the room had, which this replica would not go back from.
#[tokio::test]
async fn a_room_that_was_lost_is_placed_above_what_it_had() {
    let case = Case::new(Duration::ZERO, HOUR, Duration::ZERO, assigned(2, 7));
    assert_eq!(case.resolves().await, Resolution::Fresh(assigned(2, 7)));
    case.says(Ok(Answer::Unassigned));
    assert_eq!(case.resolves().await, Resolution::Fresh(Answer::Unassigned));
    let placed = case.resolver.place(&room("room_a"), Limits { rooms: 20, participants: 80 }, 0).await;
    let Ok(Resolution::Fresh(Answer::Assigned(assignment))) = placed else { panic!("not placed: {placed:?}") };
    assert_eq!(
        *case.script.answer.lock().expect("no panic"),
        Ok(Answer::Assigned(assignment.clone())),
        "it is followed"
    );
    assert_eq!(assignment.epoch, Epoch(8));
}

/// Else deleting the key would write the mistake anew, one higher, for all replicas and each time.
#[tokio::test]
async fn a_room_that_was_pinned_by_mistake_is_not_placed_above_that() {
    let mistake = now_ms() + 2 * SKEW_MS;
    let case = Case::new(Duration::ZERO, HOUR, Duration::ZERO, assigned(2, mistake));
    assert_eq!(case.resolves().await, Resolution::Fresh(assigned(2, mistake)));
    case.says(Ok(Answer::Unassigned));
    assert_eq!(case.resolves().await, Resolution::Fresh(Answer::Unassigned));
    let placed = case.resolver.place(&room("room_a"), Limits { rooms: 20, participants: 80 }, 0).await;
    assert!(placed.is_ok());
    let written = case.script.answer.lock().expect("no panic").clone();
    let Ok(Answer::Assigned(assignment)) = written else { panic!("not placed: {written:?}") };
    assert!(assignment.epoch < Epoch(mistake), "{}", assignment.epoch);
}

/// Each room would otherwise wait for its turn, and the last for as many timeouts as there are rooms.
#[tokio::test]
async fn a_directory_that_hangs_is_asked_for_heartbeats_once_however_many_rooms_are_placed() {
    let case = Case::new(HOUR, HOUR, HOUR, Answer::Unassigned);
    case.script.gate.forget_permits(1000);
    let limits = Limits { rooms: 20, participants: 80 };
    let placing: Vec<_> = (0..20)
        .map(|number| {
            let resolver = case.resolver.clone();
            tokio::spawn(async move { resolver.place(&room(&format!("room_{number}")), limits, 0).await })
        })
        .collect();
    let for_cluster = case.resolver.heartbeats().await;
    assert_eq!(for_cluster, Err(DirectoryError::Timeout));
    for placing in placing {
        assert_eq!(placing.await.expect("no panic"), Err(PlacementError::DirectoryUnavailable));
    }
    assert_eq!(case.asked(), 1);
    case.script.gate.add_permits(1);
    assert_eq!(case.resolver.heartbeats().await.map(|pods| pods.len()), Ok(3), "the next question is a new one");
}

#[tokio::test]
async fn a_pod_that_lost_the_race_for_a_room_has_space_for_another() {
    let case = Case::new(HOUR, HOUR, HOUR, assigned(7, 7));
    let limits = Limits { rooms: 1, participants: 80 };
    for number in 0..5 {
        let placed = case.resolver.place(&room(&format!("room_{number}")), limits, number).await;
        assert_eq!(placed, Ok(Resolution::Fresh(assigned(7, 7))));
    }
}
