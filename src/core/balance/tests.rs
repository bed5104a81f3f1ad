use super::*;

fn candidates(weights_and_loads: &[(f64, u64)]) -> Vec<Candidate> {
    let numbered = weights_and_loads.iter().enumerate();
    numbered
        .map(|(slot, (weight, load))| Candidate {
            slot,
            id: stable_hash(format!("backend-{slot}").as_bytes()),
            weight: *weight,
            load: *load,
        })
        .collect()
}

/// Pearson's statistic of these counts against these shares.
fn chi_squared(counts: &[u64], shares: &[f64]) -> f64 {
    let (total, whole) = (counts.iter().sum::<u64>() as f64, shares.iter().sum::<f64>());
    let expected = shares.iter().map(|share| total * share / whole);
    counts.iter().zip(expected).map(|(count, expected)| (*count as f64 - expected).powi(2) / expected).sum()
}

fn counted(count: usize, picks: impl Iterator<Item = usize>) -> Vec<u64> {
    let mut counts = vec![0; count];
    picks.for_each(|pick| counts[pick] += 1);
    counts
}

#[test]
fn turns_are_shared_by_weight_and_smoothly() {
    let mut turns = Turns::default();
    let equal = candidates(&[(1.0, 0), (1.0, 9), (1.0, 0)]);
    assert_eq!((0..6).filter_map(|_| turns.next(&equal)).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    let mut turns = Turns::default();
    let heavy = candidates(&[(5.0, 0), (1.0, 0), (1.0, 0)]);
    // The example of nginx's own commit: aabacaa instead of aaaaabc.
    assert_eq!((0..7).filter_map(|_| turns.next(&heavy)).collect::<Vec<_>>(), [0, 0, 1, 0, 2, 0, 0]);
    assert_eq!(turns.next(&[]), None);
    // Who is left out for a while has not saved up turns for later.
    let mut turns = Turns::default();
    let without_first = &equal[1..];
    let picks: Vec<_> = (0..4).filter_map(|_| turns.next(without_first)).collect();
    assert_eq!(picks, [0, 1, 0, 1]);
    assert_eq!(counted(3, (0..6).filter_map(|_| turns.next(&equal))), [2, 2, 2]);
}

#[test]
fn the_emptiest_is_chosen_by_weight_and_equals_in_turn() {
    assert_eq!(least_conn(&candidates(&[(1.0, 3), (1.0, 2), (1.0, 4)]), 0), Some(1));
    assert_eq!(least_conn(&candidates(&[(1.0, 3), (2.0, 5), (1.0, 4)]), 0), Some(1));
    let equal = candidates(&[(1.0, 2); 3]);
    assert_eq!((0..4).filter_map(|turn| least_conn(&equal, turn)).collect::<Vec<_>>(), [0, 1, 2, 0]);
    assert_eq!(least_conn(&equal, usize::MAX), Some(0));
    assert_eq!(least_conn(&[], 7), None);
}

#[test]
fn the_emptier_of_two_is_chosen_and_each_pair_is_as_likely() {
    let loaded = candidates(&[(1.0, 9), (1.0, 0), (1.0, 5)]);
    let rolls = || (0..9000_u64).map(|roll| mix(roll.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    // The fullest never wins, the emptiest always does: it is in two of the three pairs.
    let counts = counted(3, rolls().filter_map(|roll| power_of_two(&loaded, roll)));
    assert_eq!(counts[0], 0);
    // 99.9 % of fair choices have less, with one degree of freedom.
    assert!(chi_squared(&counts[1..], &[2.0, 1.0]) < 10.83, "{counts:?}");
    assert_eq!(power_of_two(&loaded[..1], 5), Some(0));
    assert_eq!(power_of_two(&[], 5), None);
}

#[test]
fn clients_are_spread_by_weight() {
    let keys = || (0..30_000_u32).map(|n| client_key(IpAddr::from((0x0a00_0000 + n * 7).to_be_bytes())));
    for weights in [&[1.0, 1.0, 1.0][..], &[3.0, 1.0, 2.0], &[1.0; 10]] {
        let pods = candidates(&weights.iter().map(|weight| (*weight, 0)).collect::<Vec<_>>());
        let counts = counted(pods.len(), keys().filter_map(|key| rendezvous(&pods, key)));
        // 99.9 % of fair hashes have less, with nine degrees of freedom.
        assert!(chi_squared(&counts, weights) < 27.88, "{weights:?}: {counts:?}");
    }
}

#[test]
fn only_the_clients_of_a_pod_that_leaves_move() {
    let all = candidates(&[(1.0, 0); 5]);
    let left: Vec<_> = all.iter().copied().filter(|pod| pod.slot != 2).collect();
    let mut moved = 0;
    for n in 0..10_000_u32 {
        let key = client_key(IpAddr::from(n.to_be_bytes()));
        let before = rendezvous(&all, key).map(|index| all[index].slot);
        let after = rendezvous(&left, key).map(|index| left[index].slot);
        if before == Some(2) {
            moved += 1;
        } else {
            assert_eq!(before, after);
        }
    }
    // A fifth, and five standard deviations around it.
    assert!((1800..2200).contains(&moved), "{moved}");
}

/// Replicas of two versions run side by side during an update: these values may never change.
#[test]
fn the_hash_is_a_contract() {
    assert_eq!(stable_hash(b""), 0xf52a_15e9_a9b5_e89b);
    assert_eq!(stable_hash(b"backend-1"), 0x3635_40f6_99ae_a3ce);
    let pods = candidates(&[(1.0, 0); 3]);
    let picks: Vec<_> = (1..=8).filter_map(|n| rendezvous(&pods, client_key(IpAddr::from([192, 0, 2, n])))).collect();
    assert_eq!(picks, [0, 2, 0, 0, 1, 2, 2, 0]);
}

#[test]
fn of_an_ipv6_client_the_network_counts() {
    let key = |text: &str| client_key(text.parse().expect("an address"));
    assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
    assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
}

#[test]
fn a_pod_that_is_just_back_starts_with_less() {
    assert!((slow_start(2.0, 0.0, 30.0) - 0.2).abs() < 1e-9);
    assert!((slow_start(2.0, 15.0, 30.0) - 1.0).abs() < 1e-9);
    for (age, ramp) in [(30.0, 30.0), (99.0, 30.0), (0.0, 0.0)] {
        assert!((slow_start(2.0, age, ramp) - 2.0).abs() < 1e-9);
    }
}

#[test]
fn retries_are_a_share_of_requests() {
    let mut budget = RetryBudget::new(20);
    let reserve = std::iter::from_fn(|| budget.withdraw().then_some(())).count();
    assert_eq!(reserve, 10);
    let retries = (0..100).filter(|_| {
        budget.deposit();
        budget.withdraw()
    });
    assert!((19..=20).contains(&retries.count()));
    let mut none = RetryBudget::new(0);
    none.deposit();
    assert!(!none.withdraw());
}
