//! Ctrl-C and TERM during a deploy: the first asks for an end in good order, the second for one at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How often the command was told to end.
#[derive(Debug, Clone)]
pub(super) struct Interrupts(watch::Receiver<u32>);

impl Interrupts {
    /// From now on the signals end nothing by themselves. Where the system refuses that, they end this process.
    pub(super) fn watch() -> Self {
        let (tell, told) = watch::channel(0);
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let tell = tell.clone();
            if let Ok(mut signals) = signal(kind) {
                tokio::spawn(async move {
                    while signals.recv().await.is_some() {
                        tell.send_modify(|times| *times += 1);
                    }
                });
            }
        }
        Self(told)
    }

    /// Ones that come when they are told.
    #[cfg(test)]
    pub(super) fn by_hand() -> (watch::Sender<u32>, Self) {
        let (tell, told) = watch::channel(0);
        (tell, Self(told))
    }

    pub(super) fn times(&self) -> u32 {
        *self.0.borrow()
    }

    /// Waits until it was told that often.
    pub(super) async fn at_least(&self, times: u32) {
        let mut told = self.0.clone();
        if told.wait_for(|seen| *seen >= times).await.is_err() {
            // Nobody is left to tell.
            std::future::pending::<()>().await;
        }
    }
}
