//! A stream of bytes that both ends can make and check, whatever its length.

use std::sync::LazyLock;

/// An odd length, so that a piece that is lost, doubled or moved by a whole buffer does not fit in again.
const BLOCK: usize = 65_521;

/// Random bytes, repeated: moved and compared as slices, which the dev build does at memory speed.
static BLOCK_BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = vec![0; BLOCK];
    fastrand::Rng::with_seed(2).fill(&mut bytes);
    bytes
});

/// A position in the stream.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pattern {
    at: usize,
}

impl Pattern {
    /// The next piece, at most `most` bytes.
    pub(crate) fn next(&mut self, most: u64) -> &'static [u8] {
        let start = self.at % BLOCK;
        let end = BLOCK.min(start.saturating_add(usize::try_from(most).unwrap_or(usize::MAX)));
        self.at += end - start;
        &BLOCK_BYTES[start..end]
    }

    /// Fails unless `piece` is what comes next.
    #[track_caller]
    pub(crate) fn expect(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let at = self.at;
            let ours = self.next(piece.len() as u64);
            assert!(ours == &piece[..ours.len()], "the stream differs within {} bytes of {at}", ours.len());
            piece = &piece[ours.len()..];
        }
    }

    /// The first `len` bytes, piece by piece.
    pub(crate) fn pieces(len: u64) -> impl Iterator<Item = &'static [u8]> {
        let (mut pattern, mut left) = (Self::default(), len);
        std::iter::from_fn(move || {
            let piece = (left > 0).then(|| pattern.next(left))?;
            left -= piece.len() as u64;
            Some(piece)
        })
    }
}
