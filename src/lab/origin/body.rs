//! Bodies that are made while they are sent, so that 10 GiB need no more memory than 10 bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

const LINE: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n";
const LINES: usize = 1024;

static BLOCK: [u8; LINE.len() * LINES] = {
    let mut block = [0; LINE.len() * LINES];
    let mut i = 0;
    while i < block.len() {
        block[i] = LINE[i % LINE.len()];
        i += 1;
    }
    block
};

/// The byte at a position of every `/bytes` answer: lines of 64 printable characters.
#[must_use]
pub fn pattern(position: u64) -> u8 {
    LINE[(position % LINE.len() as u64) as usize]
}

/// `left` bytes of [`pattern`].
#[derive(Debug)]
pub(super) struct Pattern {
    left: u64,
    /// Whether the length is announced.
    sized: bool,
    /// Bytes until the body fails and with it the connection.
    until_cut: Option<u64>,
    /// Runs while what was given out so far is written: a failing body takes with it what is not.
    written: Option<Pin<Box<Sleep>>>,
}

/// Long enough for the bytes before a cut to reach a reader that reads.
const WRITTEN: Duration = Duration::from_millis(20);

impl Pattern {
    pub(super) fn new(length: u64, sized: bool, cut: Option<u64>) -> Self {
        Self { left: length, sized, until_cut: cut, written: None }
    }
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.until_cut == Some(0) {
            let written = self.written.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITTEN)));
            ready!(written.as_mut().poll(cx));
            return Poll::Ready(Some(Err(io::Error::other("cut as the request asked"))));
        }
        let most = self.until_cut.unwrap_or(u64::MAX).min(self.left).min(BLOCK.len() as u64);
        if most == 0 {
            return Poll::Ready(None);
        }
        self.left -= most;
        self.until_cut = self.until_cut.map(|bytes| bytes - most);
        let frame = Bytes::from_static(&BLOCK).slice(..most as usize);
        // A frame that is not a whole number of lines is the last one, so the next starts a line.
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.until_cut.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized { SizeHint::with_exact(self.left) } else { SizeHint::new() }
    }
}
