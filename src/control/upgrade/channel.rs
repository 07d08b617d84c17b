//! The socket between an old and a new process: frames of JSON behind their length, and descriptors.
//!
//! Descriptors are duplicated by the kernel on their way (SCM_RIGHTS, unix(7)): both processes then have the
//! same sockets, with one queue of connections that wait to be accepted, and closing one end closes nothing.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::frames::Frame;

/// No frame is longer; one that says so is not of evenkeel. A million sessions are 40 MB.
const LONGEST: usize = 1 << 30;
/// Descriptors in one message; the kernel takes at most 253 (`SCM_MAX_FD`).
const AT_ONCE: usize = 128;

/// One end. Cloning it shares the socket.
#[derive(Debug)]
pub(in crate::control) struct Channel(UnixStream);

impl Channel {
    pub(in crate::control) fn new(socket: UnixStream) -> Self {
        Self(socket)
    }

    pub(in crate::control) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    pub(in crate::control) fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let body = serde_json::to_vec(frame)?;
        let length = u32::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.0.write_all(&length.to_be_bytes())?;
        self.0.write_all(&body)
    }

    /// The next frame; none when the other process has ended.
    pub(in crate::control) fn receive(&mut self) -> io::Result<Option<Frame>> {
        let mut length = [0; 4];
        if let Err(error) = self.0.read_exact(&mut length) {
            let is_end = matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset);
            return if is_end { Ok(None) } else { Err(error) };
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the other process does not speak as evenkeel does",
            ));
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(Some(serde_json::from_slice(&body)?))
    }

    pub(in crate::control) fn send_descriptors(&mut self, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        for some in descriptors.chunks(AT_ONCE) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut message = SendAncillaryBuffer::new(&mut space);
            if !message.push(SendAncillaryMessage::ScmRights(some)) {
                return Err(io::Error::other("too many descriptors for one message"));
            }
            // They travel with a byte: nothing travels with none.
            sendmsg(self.0.as_fd(), &[IoSlice::new(&[0])], &mut message, SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }

    pub(in crate::control) fn receive_descriptors(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        let mut descriptors = Vec::with_capacity(count);
        while descriptors.len() < count {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut message = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let got =
                recvmsg(self.0.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut message, RecvFlags::CMSG_CLOEXEC)?;
            let before = descriptors.len();
            for part in message.drain() {
                if let RecvAncillaryMessage::ScmRights(some) = part {
                    descriptors.extend(some);
                }
            }
            if got.bytes == 0 || descriptors.len() == before {
                // Where this process may have no further descriptor the kernel leaves some out.
                return Err(io::Error::other(format!("{} of {count} descriptors arrived", descriptors.len())));
            }
        }
        Ok(descriptors)
    }
}

/// Sends what is given to it from a thread of its own, so that nobody waits for the other process, and tells
/// `sent` of each. It ends when the sender is dropped or the other process is gone.
pub(in crate::control) fn writer(
    mut channel: Channel,
    mut sent: impl FnMut(&Frame) + Send + 'static,
) -> io::Result<mpsc::Sender<Frame>> {
    let (sender, frames) = mpsc::channel::<Frame>();
    std::thread::Builder::new().name("upgrade-write".to_owned()).spawn(move || {
        while let Ok(frame) = frames.recv() {
            if channel.send(&frame).is_err() {
                return;
            }
            sent(&frame);
        }
    })?;
    Ok(sender)
}

/// Reads frames in a thread of its own and hands each to `take`, until it does not want more or there are no
/// more: the end is none.
pub(in crate::control) fn reader(
    mut channel: Channel,
    mut take: impl FnMut(Option<Frame>) -> bool + Send + 'static,
) -> io::Result<()> {
    std::thread::Builder::new().name("upgrade-read".to_owned()).spawn(move || {
        loop {
            let frame = channel.receive().unwrap_or_else(|error| {
                tracing::warn!(%error, "the channel to the other process is broken");
                None
            });
            let is_end = frame.is_none();
            if !take(frame) || is_end {
                return;
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::control::upgrade::frames::Hello;

    #[test]
    fn frames_and_hundreds_of_descriptors_arrive_in_order() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (Channel::new(one), Channel::new(other));
        let sockets: Vec<TcpListener> = (0..300).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let sent: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        one.send(&Frame::Hello(Box::new(Hello { pid: 7, ..Hello::default() }))).unwrap();
        one.send_descriptors(&sent).unwrap();
        one.send(&Frame::Taken).unwrap();
        assert!(matches!(other.receive().unwrap(), Some(Frame::Hello(hello)) if hello.pid == 7));
        let received = other.receive_descriptors(300).unwrap();
        for (sent, received) in sockets.iter().zip(received) {
            assert_eq!(sent.local_addr().unwrap(), TcpListener::from(received).local_addr().unwrap());
        }
        assert!(matches!(other.receive().unwrap(), Some(Frame::Taken)));
        drop(one);
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn another_version_may_say_more_or_less() {
        let frame = |text: &str| serde_json::from_str::<Frame>(text).unwrap();
        assert!(matches!(frame(r#"{"is":"sing","loud":true}"#), Frame::Unknown));
        let Frame::Hello(hello) = frame(
            r#"{"is":"hello","pid":3,"mood":"good","descriptors":[{"is":"lamp"},{"is":"admin_socket","path":"/a","x":1}]}"#,
        ) else {
            panic!("not a hello")
        };
        assert_eq!((hello.pid, hello.descriptors.len()), (3, 2));
    }
}
