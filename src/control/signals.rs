//! Signals, as commands to the supervisor.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::supervisor::{Message, Signal};

/// From now on signals come to `inbox`.
pub(super) fn watch(inbox: &mpsc::Sender<Message>) -> io::Result<()> {
    type Meaning = fn() -> Message;
    let meanings: [(SignalKind, Meaning); 6] = [
        (SignalKind::terminate(), || Message::Signal(Signal::Stop { because: "SIGTERM", insist: true })),
        (SignalKind::interrupt(), || Message::Signal(Signal::Stop { because: "SIGINT", insist: true })),
        (SignalKind::quit(), || Message::Signal(Signal::Stop { because: "SIGQUIT", insist: true })),
        (SignalKind::hangup(), || Message::Signal(Signal::Reload)),
        (SignalKind::user_defined1(), || Message::Signal(Signal::ReopenLogs)),
        // Taken so that its default action does not end the process.
        (SignalKind::user_defined2(), || Message::Signal(Signal::Upgrade)),
    ];
    for (kind, meaning) in meanings {
        let mut signals = signal(kind)?;
        let inbox = inbox.clone();
        tokio::spawn(async move { while signals.recv().await.is_some() && inbox.send(meaning()).await.is_ok() {} });
    }
    Ok(())
}
