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

/// A pod that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its place in the set, kept while it is one of it.
    pub slot: usize,
    /// [`stable_hash`] of its name.
    pub id: u64,
    /// Its share, above 0.
    pub weight: f64,
    /// Requests in flight and tunnels together.
    pub load: u64,
}

impl Candidate {
    /// How full it would be with one more.
    fn fill(&self) -> f64 {
        (self.load + 1) as f64 / self.weight
    }
}

/// Whose turn it is, by weight: the smooth weighted round robin of nginx, which does not give a heavy pod all its turns
/// at once.
#[derive(Clone, Debug, Default)]
pub struct Turns(Vec<f64>);

impl Turns {
    /// The index of the candidate whose turn it is.
    pub fn next(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let slots = candidates.iter().map(|candidate| candidate.slot + 1).max()?;
        if self.0.len() < slots {
            self.0.resize(slots, 0.0);
        }
        let mut total = 0.0;
        let mut best: Option<usize> = None;
        for (index, candidate) in candidates.iter().enumerate() {
            self.0[candidate.slot] += candidate.weight;
            total += candidate.weight;
            if best.is_none_or(|best| self.0[candidate.slot] > self.0[candidates[best].slot]) {
                best = Some(index);
            }
        }
        self.0[candidates[best?].slot] -= total;
        best
    }
}

/// The index of the emptiest candidate; `turn` decides whose turn it is among equals.
pub fn least_conn(candidates: &[Candidate], turn: usize) -> Option<usize> {
    let count = candidates.len();
    let in_turn = (0..count).map(|step| turn.wrapping_add(step) % count);
    in_turn.min_by(|a, b| candidates[*a].fill().total_cmp(&candidates[*b].fill()))
}

/// The index of the emptier one of two candidates, which `roll` chooses.
pub fn power_of_two(candidates: &[Candidate], roll: u64) -> Option<usize> {
    let count = candidates.len() as u64;
    let first = roll.checked_rem(count)?;
    let (first, second) = match count {
        1 => (first, first),
        // Another one than the first, each as likely.
        _ => (first, (first + 1 + (roll / count) % (count - 1)) % count),
    };
    let (first, second) = (usize::try_from(first).ok()?, usize::try_from(second).ok()?);
    Some(if candidates[second].fill() < candidates[first].fill() { second } else { first })
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

/// How much sooner a pod that is just back gets its full share. `age` and `ramp` in the same unit; a tenth at first, so
/// that it gets something to warm up with.
pub fn slow_start(weight: f64, age: f64, ramp: f64) -> f64 {
    if ramp > 0.0 && age < ramp { weight * (age / ramp).max(0.1) } else { weight }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(POLICIES.iter().find(|(_, policy)| policy == self).map_or("", |(name, _)| name))
    }
}

/// Attempts at another pod, bounded in relation to requests: a tenth-of-a-request budget lets a burst of failures spread
/// to the other pods without their load growing by more than that tenth.
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
