use super::*;

fn candidates(weights_and_loads: &[(f64, u64)]) -> Vec<Candidate> {
    let numbered = weights_and_loads.iter().enumerate();
    numbered
        .map(|(slot, (weight, load))| Candidate {
            slot,
            id: stable_hash(format!("backend-{slot}").as_bytes()),
            weight: *weight,
            share: *weight,
            load: *load,
            availability: Availability::Open,
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
    let mut turns = SmoothWeighted::default();
    let equal = candidates(&[(1.0, 0), (1.0, 9), (1.0, 0)]);
    assert_eq!((0..6).filter_map(|_| turns.next(&equal)).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    let mut turns = SmoothWeighted::default();
    let heavy = candidates(&[(5.0, 0), (1.0, 0), (1.0, 0)]);
    // The example of nginx's own commit: aabacaa instead of aaaaabc.
    assert_eq!((0..7).filter_map(|_| turns.next(&heavy)).collect::<Vec<_>>(), [0, 0, 1, 0, 2, 0, 0]);
    assert_eq!(turns.next(&[]), None);
    // Who is left out for a while has not saved up turns for later.
    let mut turns = SmoothWeighted::default();
    let without_first = &equal[1..];
    let picks: Vec<_> = (0..4).filter_map(|_| turns.next(without_first)).collect();
    assert_eq!(picks, [0, 1, 0, 1]);
    assert_eq!(counted(3, (0..6).filter_map(|_| turns.next(&equal))), [2, 2, 2]);
}

/// Which of them `least_conn` chooses, one after the other.
fn emptiest(candidates: &[Candidate], count: usize) -> Vec<usize> {
    let mut turns = SmoothWeighted::default();
    let slot = |_| {
        let mut candidates = candidates.to_vec();
        least_conn(&mut candidates, &mut turns).map(|index| candidates[index].slot)
    };
    (0..count).filter_map(slot).collect()
}

#[test]
fn the_emptiest_is_chosen_and_equals_take_turns_by_weight() {
    assert_eq!(emptiest(&candidates(&[(1.0, 3), (1.0, 2), (1.0, 4)]), 1), [1]);
    assert_eq!(emptiest(&candidates(&[(1.0, 3), (2.0, 5), (1.0, 4)]), 1), [1]);
    assert_eq!(emptiest(&candidates(&[(1.0, 2); 3]), 4), [0, 1, 2, 0]);
    // A busy one between two idle ones gives its turn to neither in particular.
    assert_eq!(emptiest(&candidates(&[(1.0, 0), (1.0, 1), (1.0, 0)]), 4), [0, 2, 0, 2]);
    // Idle, shares are what counts: HAProxy and nginx give a light server something as well.
    assert_eq!(counted(2, emptiest(&candidates(&[(3.0, 0), (1.0, 0)]), 400).into_iter()), [300, 100]);
    assert!(emptiest(&[], 1).is_empty());
}

/// Numbers from 0 to 1, the same ones each time.
fn dice(n: u64) -> [f64; 2] {
    [2 * n, 2 * n + 1].map(|n| (mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 11) as f64 / (1_u64 << 53) as f64)
}

#[test]
fn the_emptier_of_two_is_chosen_and_each_pair_is_as_likely() {
    let loaded = candidates(&[(1.0, 9), (1.0, 0), (1.0, 5)]);
    // The fullest never wins, the emptiest always does: it is in two of the three pairs.
    let counts = counted(3, (0..9000).filter_map(|n| power_of_two(&loaded, dice(n))));
    assert_eq!(counts[0], 0);
    // 99.9 % of fair choices have less, with one degree of freedom.
    assert!(chi_squared(&counts[1..], &[2.0, 1.0]) < 10.83, "{counts:?}");
    assert_eq!(power_of_two(&loaded[..1], [0.5, 0.5]), Some(0));
    assert_eq!(power_of_two(&[], [0.5, 0.5]), None);
}

#[test]
fn among_equals_the_power_of_two_shares_out_by_weight() {
    for weights in [&[3.0, 1.0][..], &[1.0, 1.0, 0.1], &[5.0, 1.0, 2.0, 1.0]] {
        let idle = candidates(&weights.iter().map(|weight| (*weight, 0)).collect::<Vec<_>>());
        let counts = counted(idle.len(), (0..30_000).filter_map(|n| power_of_two(&idle, dice(n))));
        // 99.9 % of fair choices have less, with three degrees of freedom.
        assert!(chi_squared(&counts, weights) < 16.27, "{weights:?}: {counts:?}");
    }
    // A heavy pod with as much for its weight is no fuller than a light one.
    let even = candidates(&[(3.0, 6), (1.0, 2)]);
    let counts = counted(2, (0..30_000).filter_map(|n| power_of_two(&even, dice(n))));
    assert!(chi_squared(&counts, &[3.0, 1.0]) < 10.83, "{counts:?}");
    let heavy_is_emptier = candidates(&[(3.0, 5), (1.0, 2)]);
    assert!((0..100).all(|n| power_of_two(&heavy_is_emptier, dice(n)) == Some(0)));
}

/// What is chosen of pods that are so available and loaded.
fn chosen(pods: &[(Availability, u64)], policy: Policy, may_try: bool, full: u64) -> Option<(usize, bool)> {
    chosen_for(pods, (policy, may_try, false), full)
}

/// The slot and whether it is a trial, for a request that may try and keeps to its pod.
fn chosen_for(
    pods: &[(Availability, u64)],
    (policy, may_try, keeps): (Policy, bool, bool),
    full: u64,
) -> Option<(usize, bool)> {
    let mut candidates = candidates(&pods.iter().map(|(_, load)| (1.0, *load)).collect::<Vec<_>>());
    for (candidate, (availability, _)) in candidates.iter_mut().zip(pods) {
        candidate.availability = *availability;
    }
    let wanted = Wanted { policy, client: 7, may_try, keeps, full, dice: [0.0, 0.0] };
    choose(&mut candidates, &wanted, &mut SmoothWeighted::default()).map(|pick| (pick.slot, pick.on_trial))
}

#[test]
fn who_may_be_chosen() {
    use Availability::{Down, Draining, Ejected, Maintenance, Open, Probation};
    for policy in [Policy::RoundRobin, Policy::LeastConn, Policy::PowerOfTwo] {
        for (pods, may_try, full, expected) in [
            (&[(Ejected, 0), (Down, 0), (Draining, 0), (Maintenance, 0), (Open, 9)][..], true, 99, Some((4, false))),
            // A trial comes first, for who may take it; and nobody is on trial who is the last.
            (&[(Open, 0), (Probation, 9)], true, 99, Some((1, true))),
            (&[(Open, 9), (Probation, 0)], false, 99, Some((0, false))),
            (&[(Draining, 0), (Probation, 9)], false, 99, Some((1, false))),
            // It would wait for a place.
            (&[(Open, 4), (Probation, 5)], true, 5, Some((0, false))),
            (&[(Maintenance, 0), (Down, 9)], true, 99, Some((1, false))),
            (&[(Maintenance, 0), (Draining, 0)], true, 99, None),
            // Full ones only where all are, and the open ones before those that are out.
            (&[(Open, 5), (Open, 4)], true, 5, Some((1, false))),
            (&[(Ejected, 0), (Open, 5)], true, 5, Some((1, false))),
            (&[], true, 99, None),
        ] {
            assert_eq!(chosen(pods, policy, may_try, full), expected, "{policy} {pods:?}");
        }
    }
    // By the client's address only those that belong there try a pod.
    let home = chosen(&[(Open, 0); 3], Policy::ClientIp, true, 99).expect("an open pod").0;
    let with = |slot: usize, availability, may_try| {
        let mut pods = [(Open, 0); 3];
        pods[slot].0 = availability;
        chosen(&pods, Policy::ClientIp, may_try, 99)
    };
    assert_eq!(with(home, Probation, true), Some((home, true)));
    assert_eq!(with((home + 1) % 3, Probation, true), Some((home, false)));
    assert_eq!(with(home, Probation, false), with(home, Ejected, true), "who cannot try it goes where others do");
}

/// Another replica may not have ejected it, or not any more.
#[test]
fn sessions_by_address_go_home_whatever_is_held_against_it() {
    use Availability::{Down, Draining, Ejected, Maintenance, Open, Probation};
    let choose = |home: usize, availability, may_try| {
        let mut pods = [(Open, 0); 3];
        pods[home].0 = availability;
        chosen_for(&pods, (Policy::ClientIp, may_try, true), 99)
    };
    let home = choose(0, Open, false).expect("an open pod").0;
    assert_eq!(choose(home, Ejected, true), Some((home, false)));
    assert_eq!(choose(home, Ejected, false), Some((home, false)));
    assert_eq!(choose(home, Probation, false), Some((home, false)));
    assert_eq!(choose(home, Probation, true), Some((home, true)));
    for gone in [Down, Draining, Maintenance] {
        assert_ne!(choose(home, gone, false).expect("another").0, home, "{gone:?}");
    }
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
