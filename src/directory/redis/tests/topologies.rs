//! Quick checks that Sentinel and Cluster work: finding the servers, following a failover or a moving slot.

use super::server::wait_for;
use super::*;

/// A master, its replica, and one Sentinel that needs nobody's consent.
fn watched() -> (Server, Server, Server) {
    let master = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let replica = Server::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    wait_for("replication", || replica.cli(&["info", "replication"]).contains("master_link_status:up"));
    let sentinel = Server::start(&["--sentinel"]);
    // It learns of replicas every 10 s otherwise.
    assert_eq!(sentinel.cli(&["sentinel", "debug", "info-period", "100"]), "OK");
    assert_eq!(sentinel.cli(&["sentinel", "monitor", "main", "127.0.0.1", &master.port.to_string(), "1"]), "OK");
    for (setting, value) in [("down-after-milliseconds", "300"), ("failover-timeout", "2000")] {
        assert_eq!(sentinel.cli(&["sentinel", "set", "main", setting, value]), "OK");
    }
    (master, replica, sentinel)
}

#[tokio::test]
async fn sentinel_leads_to_the_master_and_after_a_failover_to_the_next() {
    let (mut master, replica, sentinel) = watched();
    wait_for("the replica", || sentinel.cli(&["sentinel", "replicas", "main"]).contains(&replica.port.to_string()));
    // The first Sentinel of the list does not exist.
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", free_port(), sentinel.port);
    let directory = connected(&format!("redis-sentinel://{hosts}?sentinelServiceName=main")).await;
    let claimed = directory.claim(&room("room_a"), &backend().nth(1), Epoch(0)).await.expect("the master takes writes");
    wait_for("replication", || replica.cli(&["exists", "room:room_a:pod"]) == "1");

    master.kill();
    until("down", async || !directory.is_up()).await;
    until("the new master", async || directory.lookup(&room("room_a")).await == Ok(claimed.clone())).await;
    assert!(directory.claim(&room("room_b"), &backend().nth(2), Epoch(0)).await.is_ok());
    assert_eq!(replica.cli(&["exists", "room:room_b:pod"]), "1");
}

/// A user of the Sentinels with the rights that README names.
const ASKS_SENTINELS: [&str; 9] = [
    "acl",
    "setuser",
    "router",
    "on",
    ">secret",
    "+ping",
    "+sentinel|master",
    "+sentinel|get-master-addr-by-name",
    "+sentinel|sentinels",
];

/// The master is replaced, but never told so: it answers as before.
fn replace(master: &Server, sentinel: &Server) {
    assert_eq!(master.cli(&["acl", "setuser", "default", "-slaveof", "-replicaof", "-publish"]), "OK");
    // It says NOGOODSLAVE until it has heard of the replica's state.
    wait_for("a failover", || sentinel.cli(&["sentinel", "failover", "main"]) == "OK");
}

/// Whether the directory is at this server: it alone has the room.
async fn is_at(directory: &RedisDirectory, server: &Server) -> bool {
    // Set anew each time: a new master begins with what it was sent by the old one.
    server.cli(&["set", "room:room_a:pod", r#"{"podId":"backend-1","assignedAt":7}"#]);
    directory.lookup(&room("room_a")).await == Ok(assigned(1, 7))
}

#[tokio::test]
async fn a_master_that_has_been_replaced_is_left_though_it_answers() {
    let (master, replica, sentinel) = watched();
    assert_eq!(sentinel.cli(&ASKS_SENTINELS), "OK");
    assert_eq!(sentinel.cli(&["acl", "setuser", "router", "-sentinel|master"]), "OK");
    let user = "sentinelServiceName=main&sentinelUsername=router&sentinelPassword=secret";
    let directory = connected(&format!("redis-sentinel://127.0.0.1:{}?{user}", sentinel.port)).await;
    let other_thread = directory.attach();
    other_thread.first_contact().await;
    // Nothing but that is missed without the right, and nothing more is needed once it is there.
    until("a refusal", async || directory.common.sentinels.consent.is_refused()).await;
    assert_eq!(sentinel.cli(&["acl", "setuser", "router", "+sentinel|master"]), "OK");
    replace(&master, &sentinel);
    for thread in [&directory, &other_thread] {
        until("the new master", async || is_at(thread, &replica).await).await;
    }
    assert!(master.cli(&["role"]).starts_with("master"), "it has not been told");
    assert_eq!(master.cli(&["exists", "room:room_a:pod"]), "0");
}

#[tokio::test]
async fn a_sentinel_that_has_missed_a_failover_is_not_followed() {
    let (master, replica, sentinel) = watched();
    replace(&master, &sentinel);
    wait_for("the new master", || replica.cli(&["role"]).starts_with("master"));
    let late = Server::start(&["--sentinel"]);
    assert_eq!(late.cli(&["sentinel", "monitor", "main", "127.0.0.1", &master.port.to_string(), "2"]), "OK");
    // The last of the list is asked first.
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", sentinel.port, late.port);
    let directory = connected(&format!("redis-sentinel://{hosts}?sentinelServiceName=main")).await;
    until("the new master", async || is_at(&directory, &replica).await).await;
    let other_thread = directory.attach();
    other_thread.first_contact().await;
    assert!(is_at(&other_thread, &replica).await, "it is not at the old one for a moment");
    let old = format!("127.0.0.1\n{}", master.port);
    assert_eq!(late.cli(&["sentinel", "get-master-addr-by-name", "main"]), old, "it still knows no better");
}

/// What README advises: a master that has been cut off places no room which its successor would not know.
#[tokio::test]
async fn a_master_that_has_lost_its_replicas_places_no_rooms_where_it_is_told_so() {
    let alone = Server::start(&["--min-replicas-to-write", "1"]);
    let directory = connected(&alone.url()).await;
    let claim = async || directory.claim(&room("room_a"), &backend().nth(1), Epoch(0)).await;
    let Err(DirectoryError::Refused(why)) = claim().await else { panic!("a room is placed") };
    assert!(why.contains("NOREPLICAS"), "{why}");
    assert_eq!(directory.lookup(&room("room_a")).await, Ok(Answer::Unassigned), "it answers all the same");
    let _replica = Server::start(&["--replicaof", "127.0.0.1", &alone.port.to_string()]);
    until("a replica", async || claim().await == directory.lookup(&room("room_a")).await).await;
}

/// Three primaries that share all slots.
fn cluster() -> [Server; 3] {
    let nodes = [(); 3].map(|()| {
        let bus = free_port().to_string();
        Server::start(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"])
    });
    for (node, (first, last)) in nodes.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")]) {
        assert_eq!(node.cli(&["cluster", "addslotsrange", first, last]), "OK");
    }
    for node in &nodes[1..] {
        let myself = node.cli(&["cluster", "nodes"]);
        // "<id> 127.0.0.1:<port>@<bus> myself,…": before it has met anybody it knows only the ports.
        let bus = myself.split_once('@').and_then(|(_, rest)| rest.split_once([' ', ','])).expect("a bus port").0;
        assert_eq!(nodes[0].cli(&["cluster", "meet", "127.0.0.1", &node.port.to_string(), bus]), "OK");
    }
    for node in &nodes {
        wait_for("the cluster", || {
            let slots = node.cli(&["cluster", "nodes"]);
            node.cli(&["cluster", "info"]).contains("cluster_state:ok") && slots.matches("connected").count() == 3
        });
    }
    nodes
}

#[tokio::test]
async fn a_cluster_is_asked_where_the_room_is_while_its_slot_moves_too() {
    let nodes = cluster();
    let directory = connected(&format!("redis-cluster://127.0.0.1:{}", nodes[1].port)).await;
    for index in 0..20_u16 {
        let id = format!("room_{index}");
        let claimed = directory.claim(&room(&id), &backend().nth(index), Epoch(0)).await.expect("the cluster is up");
        assert_eq!(directory.lookup(&room(&id)).await, Ok(claimed));
    }
    let spread = nodes.each_ref().map(|node| node.cli(&["dbsize"]));
    assert!(spread.iter().all(|size| size != "0"), "{spread:?}");
    for ordinal in 0..40 {
        nodes[0].cli(&["-c", "set", &format!("pod:backend-{ordinal}:metrics"), r#"{"activeRooms":1}"#]);
    }
    assert_eq!(directory.heartbeats().await.map(|beats| beats.len()), Ok(40));
    for ordinal in 0..32 {
        nodes[0].cli(&["-c", "del", &format!("pod:backend-{ordinal}:metrics")]);
    }
    assert_eq!(directory.heartbeats().await.map(|beats| beats.len()), Ok(8), "all ordinals in one round trip");

    let key = "room:room_1:pod";
    let slot = nodes[0].cli(&["cluster", "keyslot", key]);
    let holds = |node: &&Server| node.cli(&["exists", key]) == "1";
    let from = nodes.iter().find(holds).expect("somebody holds it");
    let to = nodes.iter().find(|node| node.port != from.port).expect("there are three");
    let [from_id, to_id] = [from, to].map(|node| node.cli(&["cluster", "myid"]));
    to.cli(&["cluster", "setslot", &slot, "importing", &from_id]);
    from.cli(&["cluster", "setslot", &slot, "migrating", &to_id]);
    let before = directory.lookup(&room("room_1")).await.expect("it is still there");
    from.cli(&["migrate", "127.0.0.1", &to.port.to_string(), key, "0", "1000"]);
    // The room is on its way, and nobody else gets its answers, or another's.
    for _ in 0..10 {
        let mut lookups = JoinSet::new();
        for index in (0..20).filter(|&index| index != 1) {
            let directory = directory.clone();
            lookups.spawn(async move { (index, directory.lookup(&room(&format!("room_{index}"))).await) });
        }
        assert!(unavailable(directory.lookup(&room("room_1")).await).contains("redirections"));
        for (index, answer) in lookups.join_all().await {
            let right = matches!(&answer, Ok(Answer::Assigned(there)) if there.pod == backend().nth(index));
            assert!(right, "room_{index}: {answer:?}");
        }
    }
    for node in [to, from] {
        node.cli(&["cluster", "setslot", &slot, "node", &to_id]);
    }
    // The node that is asked for the slots may hear of it a moment later.
    until("the new owner", async || directory.lookup(&room("room_1")).await == Ok(before.clone())).await;
    assert!(directory.is_up());
}

#[tokio::test]
async fn a_cluster_with_a_primary_that_hangs_is_down_and_comes_back() {
    let nodes = cluster();
    let directory = connected(&format!("redis-cluster://127.0.0.1:{}", nodes[0].port)).await;
    for node in &nodes {
        node.signal("STOP");
        until("down", async || !directory.is_up()).await;
        node.signal("CONT");
        until("up", async || directory.is_up()).await;
    }
}

/// Asked as one server, a node of a Cluster refuses the rooms of the others in words that say why.
#[tokio::test]
async fn a_cluster_that_is_taken_for_one_server_refuses() {
    let nodes = cluster();
    let directory = connected(&nodes[0].url()).await;
    let mut said = Vec::new();
    for number in 0..20 {
        match directory.lookup(&room(&format!("room_{number}"))).await {
            Ok(answer) => assert_eq!(answer, Answer::Unassigned),
            other => {
                said.push(refused(other));
                assert!(!directory.answers());
            }
        }
    }
    assert!(!said.is_empty() && said.iter().all(|why| why.starts_with("MOVED")), "{said:?}");
}
