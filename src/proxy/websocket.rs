//! WebSockets as far as a proxy has to know them: where frames begin and end (RFC 6455 §5.2), so that a
//! tunnel can be closed with a word of its own between two of them (§7.4.1, code 1001).
//!
//! Nothing in here looks into what a frame carries, and nothing is held back: only headers are read, and
//! only as far as they say how long their frame is. It is no judge either: what is malformed passes, and
//! costs its connection no more than the proper end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep_until;

use super::request_id::random_u64;
use super::upgrade::{Half, poll_written, with_chunk};
use crate::config::plan::CLOSE_WAIT;

/// Longest header: two bytes, a length of eight, a mask of four.
const LONGEST: usize = 14;

/// "Going away": the code of an endpoint that stops.
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();

/// Follows the frames of one direction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// What is to come of the frame whose header is known.
    left: u64,
    head: [u8; LONGEST],
    /// How much of the next header is there.
    have: usize,
    /// Whether a close frame has begun, after which no other may come.
    closes: bool,
}

impl Frames {
    /// Whether the bytes so far end with a frame.
    fn is_between(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    /// Whether the last frame of this direction has passed.
    fn has_closed(&self) -> bool {
        self.closes && self.is_between()
    }

    /// Notes bytes that pass.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.step(bytes);
            bytes = &bytes[taken..];
        }
    }

    /// Notes bytes up to the end of the frame under way, and says how many those are.
    fn follow_to_end(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && !self.is_between() {
            taken += self.step(&bytes[taken..]);
        }
        taken
    }

    /// Takes in a header, or what is there of a frame's content.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let taken = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.left -= taken as u64;
            return taken;
        }
        if let (0, [first, second, ..]) = (self.have, bytes) {
            // Nearly always: a short header that is there as a whole.
            let header = if second & 0x80 == 0 { 2 } else { 6 };
            let length = second & 0x7f;
            if length < 126 && bytes.len() >= header {
                self.left = u64::from(length);
                self.closes |= first & 0x0f == 0x8;
                return header;
            }
        }
        for (taken, byte) in bytes.iter().enumerate() {
            self.head[self.have] = *byte;
            self.have += 1;
            if self.have == self.head_length() {
                self.begin();
                return taken + 1;
            }
        }
        bytes.len()
    }

    /// How long the header is, as far as is known.
    fn head_length(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.head[1] & 0x80 == 0 { 0 } else { 4 }
    }

    fn begin(&mut self) {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        self.left = match self.head[1] & 0x7f {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            short => u64::from(short),
        };
        self.closes |= self.head[0] & 0x0f == 0x8;
        self.have = 0;
    }
}

/// A close frame as servers send it, and as clients do: masked (RFC 6455 §5.1).
fn goodbye(masked: bool) -> Vec<u8> {
    if !masked {
        return [&[0x88, 0x02], &GOING_AWAY[..]].concat();
    }
    let mask = random_u64().to_ne_bytes();
    vec![0x88, 0x82, mask[0], mask[1], mask[2], mask[3], GOING_AWAY[0] ^ mask[0], GOING_AWAY[1] ^ mask[1]]
}

/// Closes both sides of a WebSocket: each gets to the end of the frame that it is being sent, then a close
/// frame, then a moment for its own. What is not done at `by` is left. Whether both were told.
pub(super) async fn close<N, F>(near: &mut N, far: &mut F, up: &mut Half, down: &mut Half, by: Instant) -> bool
where
    N: AsyncRead + AsyncWrite + Unpin,
    F: AsyncRead + AsyncWrite + Unpin,
{
    let mut timer = std::pin::pin!(sleep_until(by.into()));
    let mut waits = false;
    std::future::poll_fn(|cx| {
        // A client masks what it sends, so the server gets a masked one.
        let first = poll_leave(near, far, up, true, cx);
        let second = poll_leave(far, near, down, false, cx);
        match (first, second) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) | (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                return Poll::Ready(());
            }
            _ => {}
        }
        if !waits && up.is_told() && down.is_told() {
            waits = true;
            timer.as_mut().reset((Instant::now() + CLOSE_WAIT).min(by).into());
        }
        timer.as_mut().poll(cx)
    })
    .await;
    // The end of the stream, as far as it can be sent without waiting.
    std::future::poll_fn(|cx| {
        let _ = Pin::new(&mut *near).poll_shutdown(cx);
        let _ = Pin::new(&mut *far).poll_shutdown(cx);
        Poll::Ready(())
    })
    .await;
    up.is_told() && down.is_told()
}

/// Moves the rest of a frame, then says goodbye, then waits for the other side's last word.
fn poll_leave<R, W>(
    from: &mut R,
    to: &mut W,
    half: &mut Half,
    masked: bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if half.closed {
        return Poll::Ready(Ok(()));
    }
    loop {
        ready!(poll_written(to, half, cx))?;
        let Half { frames: Some(frames), pending, ended, told, bytes, .. } = half else {
            return Poll::Ready(Ok(()));
        };
        if !*told && frames.is_between() {
            *told = true;
            if !frames.has_closed() {
                pending.extend_from_slice(&goodbye(masked));
                continue;
            }
        }
        if *told && (*ended || frames.has_closed()) {
            return Poll::Ready(Ok(()));
        }
        if *ended {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        ready!(with_chunk(|chunk| {
            let mut read = ReadBuf::new(chunk);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut read))?;
            let filled = read.filled();
            *ended = filled.is_empty();
            *bytes += filled.len() as u64;
            if *told {
                // Nothing passes any more; only the other side's close frame is waited for.
                frames.follow(filled);
                return Poll::Ready(Ok::<_, io::Error>(()));
            }
            let taken = frames.follow_to_end(filled);
            pending.extend_from_slice(&filled[..taken]);
            if frames.is_between() && !*ended {
                *told = true;
                if !frames.has_closed() {
                    pending.extend_from_slice(&goodbye(masked));
                }
                frames.follow(&filled[taken..]);
            }
            Poll::Ready(Ok(()))
        }))?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, length: usize, masked: bool, wide: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match length {
            _ if wide => {
                bytes.push(127 | mask);
                bytes.extend((length as u64).to_be_bytes());
            }
            0..=125 => bytes.push(length as u8 | mask),
            _ => {
                bytes.push(126 | mask);
                bytes.extend((length as u16).to_be_bytes());
            }
        }
        bytes.extend(vec![0xff; if masked { 4 } else { 0 } + length]);
        bytes
    }

    proptest! {
        /// However the bytes are cut up, frames end where they end.
        #[test]
        fn frames_end_where_they_end(
            frames in prop::collection::vec((0u8..8, 0usize..700, any::<bool>(), any::<bool>()), 1..8),
            cut in 1usize..50,
        ) {
            let mut ends = vec![0];
            let mut bytes = Vec::new();
            for (opcode, length, masked, wide) in frames {
                bytes.extend(frame(opcode, length, masked, wide));
                ends.push(bytes.len());
            }
            let mut follower = Frames::default();
            let mut at = 0;
            for piece in bytes.chunks(cut) {
                follower.follow(piece);
                at += piece.len();
                prop_assert_eq!(follower.is_between(), ends.contains(&at));
            }
            prop_assert!(!follower.has_closed());
            // The same, from any place to the end of its frame.
            for from in 0..bytes.len() {
                let mut follower = Frames::default();
                follower.follow(&bytes[..from]);
                let end = ends.iter().copied().find(|end| *end >= from).unwrap();
                prop_assert_eq!(follower.follow_to_end(&bytes[from..]), end - from);
            }
        }
    }

    #[test]
    fn a_close_frame_is_the_last_once_it_is_whole() {
        let mut frames = Frames::default();
        frames.follow(&[0x88]);
        assert!(!frames.has_closed());
        frames.follow(&[0x02, 0x03]);
        assert!(!frames.has_closed());
        frames.follow(&[0xe8]);
        assert!(frames.has_closed());
    }

    #[test]
    fn a_goodbye_is_masked_for_servers_only() {
        assert_eq!(goodbye(false), [0x88, 2, 0x03, 0xe9]);
        let masked = goodbye(true);
        assert_eq!(masked[..2], [0x88, 0x82]);
        assert_eq!([masked[6] ^ masked[2], masked[7] ^ masked[3]], [0x03, 0xe9]);
    }

    #[tokio::test]
    async fn both_sides_finish_their_frame_and_get_a_goodbye() {
        let (mut client, mut near) = tokio::io::duplex(1024);
        let (mut server, mut far) = tokio::io::duplex(1024);
        let (mut up, mut down) = (Half::new(&[0x81, 0x85, 1], true), Half::new(&[], true));
        up.pending.clear();
        let closing = tokio::spawn(async move {
            let by = Instant::now() + Duration::from_secs(30);
            close(&mut near, &mut far, &mut up, &mut down, by).await
        });
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut told = [0; 4];
        client.read_exact(&mut told).await.unwrap();
        assert_eq!(told, [0x88, 2, 0x03, 0xe9], "the server is in no frame");
        // The rest of the frame under way, then one that is too late.
        client.write_all(&[2, 3, 4, b'h', b'e', b'l', b'l', b'o', 0x81, 0x80, 0, 0, 0, 0]).await.unwrap();
        client.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]).await.unwrap();
        let mut got = [0; 16];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(got[..8], [2, 3, 4, b'h', b'e', b'l', b'l', b'o']);
        assert_eq!(got[8..10], [0x88, 0x82]);
        server.write_all(&[0x88, 2, 0x03, 0xe9]).await.unwrap();
        assert!(closing.await.unwrap());
        assert_eq!(server.read(&mut got).await.unwrap(), 0, "nothing comes after it");
        assert_eq!(client.read(&mut got).await.unwrap(), 0);
    }
}
