//! Random choices, all from one seed; bytes that are nearly right.

/// The source of everything that is random in a run.
pub(super) struct Input(fastrand::Rng);

/// Bytes at which parsers change their minds.
const EDGES: &[u8] = b"\0\t\n\r \"#%&'()+,-./0:;<=>?@AZ[\\]^_az{|}~\x7f\x80\xff";

impl Input {
    pub(super) fn new(seed: u64) -> Self {
        // Neighbouring seeds are to give inputs that have nothing in common.
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
        rng.u64(..);
        Self(rng)
    }

    /// Below `bound`; 0 where that is 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.0.usize(..bound) }
    }

    pub(super) fn number(&mut self) -> u64 {
        // Of every magnitude, and not only of the largest.
        let bits = self.0.u32(..64);
        self.0.u64(..) >> bits
    }

    /// True once in so many times.
    pub(super) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(super) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    pub(super) fn byte(&mut self) -> u8 {
        if self.one_in(2) { EDGES[self.below(EDGES.len())] } else { self.0.u8(..) }
    }

    pub(super) fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.byte()).collect()
    }

    /// So many letters of this alphabet at most, and at least one.
    pub(super) fn word(&mut self, alphabet: &[u8], most: usize) -> String {
        (0..=self.below(most)).map(|_| char::from(alphabet[self.below(alphabet.len())])).collect()
    }

    /// Changes a few bytes, or none: flips, inserts, removes, repeats, swaps in tokens.
    pub(super) fn damage(&mut self, bytes: &mut Vec<u8>, tokens: &[&[u8]]) {
        if self.one_in(2) {
            return;
        }
        for _ in 0..=self.below(3) {
            let (at, len) = (self.below(bytes.len() + 1), self.below(8));
            let end = (at + len).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] = self.byte(),
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                4 => drop(bytes.splice(at..end, self.pick(tokens).to_vec())),
                _ => bytes.insert(at, self.byte()),
            }
        }
    }

    /// Cuts `length` bytes into pieces, none empty.
    pub(super) fn pieces(&mut self, length: usize) -> Vec<usize> {
        let most = 1 + self.below(length.max(1));
        let mut left = length;
        std::iter::from_fn(|| {
            let piece = (1 + self.below(most)).min(left);
            left -= piece;
            (piece > 0).then_some(piece)
        })
        .collect()
    }
}
