//! Choosing among interchangeable pods, for requests that name no room.
//!
//! The names are the ones users know from nginx, HAProxy and Envoy. Chance and turns come in as numbers: the same
//! arguments give the same choice, and [`rendezvous`] gives it on every replica and in every version, because clients
//! are found again by it.

use std::fmt;
use std::net::IpAddr;

/// `--balance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Each in its turn, by weight.
    RoundRobin,
    /// The one with the fewest requests and tunnels, by weight.
    LeastConn,
    /// The less loaded of two chosen at random: nearly as even as the former, without everyone choosing the same.
    PowerOfTwo,
    /// By the client's address: the same client, the same pod.
    ClientIp,
}

/// The policies by the names that users know.
pub const POLICIES: [(&str, Policy); 4] = [
    ("round_robin", Policy::RoundRobin),
    ("least_conn", Policy::LeastConn),
    ("p2c", Policy::PowerOfTwo),
    ("client_ip", Policy::ClientIp),
];

/// Whether a pod may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// For everything.
    Open,
    /// Ejected for its time: for a request that takes the trial, which decides whether it is back.
    Probation,
    /// When nobody else is left: it has kept failing.
    Ejected,
    /// When nobody else is left: its health checks fail.
    Down,
    /// For what its sessions send.
    Draining,
    /// For nothing.
    Maintenance,
}

/// A pod that might be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its place in the set, kept while it is one of it.
    pub slot: usize,
    /// [`stable_hash`] of its name.
    pub id: u64,
    /// Its weight, above 0.
    pub weight: f64,
    /// The same, less as long as it is warming up.
    pub share: f64,
    /// Requests in flight or waiting for a place, and tunnels, together.
    pub load: u64,
    /// Whether it may be chosen.
    pub availability: Availability,
}

/// What a pod is wanted for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// How to choose.
    pub policy: Policy,
    /// [`client_key`], for [`Policy::ClientIp`].
    pub client: u64,
    /// Whether the request may take a trial. One of a session may not, as it would be lost there.
    pub may_try: bool,
    /// Whether the request is one of a session that is found again by the client's address: whatever this replica holds
    /// against a pod, another one may not, and they have to find the same. Who is not there is passed over when that is
    /// found out, by all alike.
    pub keeps: bool,
    /// From which load on a pod is passed over, as long as there are others.
    pub full: u64,
    /// Two numbers from 0 to 1, the latter not included, for [`Policy::PowerOfTwo`].
    pub dice: [f64; 2],
}

/// What a choice came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Whose turn it is.
    pub slot: usize,
    /// Whether it is on probation, and the request its trial. If somebody else has that already, the choice is to be made
    /// again, with that pod as one that is ejected.
    pub on_trial: bool,
}

/// The pod for a request, by the policy; `None` where none may be chosen. The candidates change their order.
///
/// A pod on probation that has room gets the first request that may try it; by the client's address only the first of those
/// that belong there, for what follows would not find another one again. Those that are ejected (but see [`Wanted::keeps`]) or down are
/// for when there is nobody else, and so are full ones: where all are full, their queues decide.
pub fn choose(candidates: &mut [Candidate], wanted: &Wanted, turns: &mut SmoothWeighted) -> Option<Pick> {
    let by_client = wanted.policy == Policy::ClientIp;
    let has_room = |candidate: &Candidate| candidate.load < wanted.full;
    // A trial that waits for a place would hold up its request, and the next one's, for as long as one may wait.
    let on_probation =
        |candidate: &&Candidate| candidate.availability == Availability::Probation && has_room(candidate);
    if wanted.may_try
        && !by_client
        && let Some(candidate) = candidates.iter().find(on_probation)
    {
        return Some(Pick { slot: candidate.slot, on_trial: true });
    }
    let usable = |candidate: &Candidate| match candidate.availability {
        Availability::Open => true,
        Availability::Probation => by_client && (wanted.may_try || wanted.keeps) && has_room(candidate),
        Availability::Ejected => wanted.keeps,
        Availability::Down | Availability::Draining | Availability::Maintenance => false,
    };
    let last_resort = |candidate: &Candidate| candidate.availability.is_last_resort();
    let usable_at_all = candidates.iter().any(usable);
    let able = to_front(candidates, |candidate| if usable_at_all { usable(candidate) } else { last_resort(candidate) });
    let able = if able.iter().any(has_room) { to_front(able, has_room) } else { able };
    let index = match wanted.policy {
        Policy::RoundRobin => turns.next(able),
        Policy::LeastConn => least_conn(able, turns),
        Policy::PowerOfTwo => power_of_two(able, wanted.dice),
        Policy::ClientIp => rendezvous(able, wanted.client),
    };
    let chosen = able[index?];
    let on_trial = usable_at_all && wanted.may_try && chosen.availability == Availability::Probation;
    Some(Pick { slot: chosen.slot, on_trial })
}

/// Moves those that are wanted to the front, in their order, and returns them.
fn to_front(candidates: &mut [Candidate], wanted: impl Fn(&Candidate) -> bool) -> &mut [Candidate] {
    let mut count = 0;
    for index in 0..candidates.len() {
        if wanted(&candidates[index]) {
            candidates.swap(count, index);
            count += 1;
        }
    }
    &mut candidates[..count]
}

impl Availability {
    /// Whether it is for when nobody else is left.
    pub fn is_last_resort(self) -> bool {
        matches!(self, Self::Probation | Self::Ejected | Self::Down)
    }
}

impl Candidate {
    /// What it has for its share. nginx's measure: one without any load is the emptiest, whatever its share, so that
    /// neither a light pod nor one that warms up is left out (HAProxy counts the request to come in as well, and takes
    /// idle servers for equal all the same: `fwlc_get_key`).
    fn fill(&self) -> f64 {
        self.load as f64 / self.share
    }
}

/// Smooth weighted round robin, as nginx does it: a heavy pod does not get all its turns at once.
#[derive(Clone, Debug, Default)]
pub struct SmoothWeighted(Vec<f64>);

impl SmoothWeighted {
    /// The index of the candidate whose turn it is.
    pub fn next(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let slots = candidates.iter().map(|candidate| candidate.slot + 1).max()?;
        if self.0.len() < slots {
            self.0.resize(slots, 0.0);
        }
        let mut total = 0.0;
        let mut best: Option<usize> = None;
        for (index, candidate) in candidates.iter().enumerate() {
            self.0[candidate.slot] += candidate.share;
            total += candidate.share;
            if best.is_none_or(|best| self.0[candidate.slot] > self.0[candidates[best].slot]) {
                best = Some(index);
            }
        }
        self.0[candidates[best?].slot] -= total;
        best
    }
}

/// The index of the emptiest candidate; equally empty ones take turns by weight, as nginx's do. Those come to the front.
pub fn least_conn(candidates: &mut [Candidate], turns: &mut SmoothWeighted) -> Option<usize> {
    let least = candidates.iter().map(Candidate::fill).min_by(f64::total_cmp)?;
    turns.next(to_front(candidates, |candidate| candidate.fill() <= least))
}

/// The index of the emptier one of two candidates, and the first where they are equal. Both are drawn by weight, as by
/// nginx's `random two least_conn`: the first alone would share out by weight exactly.
pub fn power_of_two(candidates: &[Candidate], dice: [f64; 2]) -> Option<usize> {
    let first = draw(candidates, dice[0], None)?;
    let second = draw(candidates, dice[1], Some(first)).unwrap_or(first);
    Some(if candidates[second].fill() < candidates[first].fill() { second } else { first })
}

/// The index of a candidate drawn by weight, `but` for one.
fn draw(candidates: &[Candidate], die: f64, but: Option<usize>) -> Option<usize> {
    let urn = || candidates.iter().enumerate().filter(|(index, _)| Some(*index) != but);
    let mut left = die * urn().map(|(_, candidate)| candidate.share).sum::<f64>();
    let mut drawn = None;
    for (index, candidate) in urn() {
        drawn = Some(index);
        left -= candidate.share;
        if left < 0.0 {
            break;
        }
    }
    drawn
}

/// The index of the candidate that a client's key belongs to: weighted rendezvous hashing. When one of N leaves, only
/// its clients move, and they spread over all others.
pub fn rendezvous(candidates: &[Candidate], key: u64) -> Option<usize> {
    let score = |candidate: &Candidate| {
        // The upper 53 bits as a number between 0 and 1, neither included.
        let unit = ((mix(key ^ candidate.id) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -candidate.weight / unit.ln()
    };
    let scores = candidates.iter().map(score).enumerate();
    scores.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

/// The key of a client's address. Of an IPv6 address only the network counts: a host changes the rest as it likes.
pub fn client_key(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(v4) => stable_hash(&v4.octets()),
        IpAddr::V6(v6) => stable_hash(&v6.octets()[..8]),
    }
}

/// A hash that is the same on every replica, on every machine and in every version: FNV-1a, with its bits mixed.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// The finalizer of SplitMix64: every bit of the input changes half of the output's.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The share of a pod that has been there, or back, for `age`: it grows to the whole weight within `ramp`, in the same unit.
/// A tenth at first, so that it gets something to warm up with.
pub fn slow_start(weight: f64, age: f64, ramp: f64) -> f64 {
    if ramp > 0.0 && age < ramp { weight * (age / ramp).max(0.1) } else { weight }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(POLICIES.iter().find(|(_, policy)| policy == self).map_or("", |(name, _)| name))
    }
}

/// Attempts at another pod, bounded in relation to requests, so that the load of the others cannot grow by more than that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// What each request adds.
    share: f64,
    left: f64,
}

/// What there is to begin with, and at most: a quiet router must be able to retry as well.
const RESERVE: f64 = 10.0;

impl RetryBudget {
    /// A budget of so many percent of the requests.
    pub fn new(percent: u32) -> Self {
        Self { share: f64::from(percent) / 100.0, left: if percent == 0 { 0.0 } else { RESERVE } }
    }

    /// A request has come.
    pub fn deposit(&mut self) {
        self.left = (self.left + self.share).min(RESERVE.max(self.share));
    }

    /// Whether there is one retry left.
    pub fn has_one(&self) -> bool {
        self.left >= 1.0
    }

    /// Takes one retry out, if there is one.
    pub fn withdraw(&mut self) -> bool {
        let enough = self.has_one();
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests;
