//! What ends a deploy before its time: Ctrl-C and TERM, of which the first asks for an end in good order and
//! the second for one at once; and a proxy that has given the deploy to somebody else.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

#[derive(Debug, Clone, Default)]
struct Told {
    times: u32,
    /// Why the deploy is no longer this command's.
    lost: Option<String>,
}

/// How often the command was told to end.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Interrupts {
    tell: Arc<watch::Sender<Told>>,
}

impl Interrupts {
    /// From now on the signals end nothing by themselves. Where the system refuses that, they end this process.
    pub(in crate::cli) fn watch() -> Self {
        let interrupts = Self::by_hand();
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let tell = interrupts.clone();
            if let Ok(mut signals) = signal(kind) {
                tokio::spawn(async move {
                    while signals.recv().await.is_some() {
                        tell.interrupt();
                    }
                });
            }
        }
        interrupts
    }

    /// Ones that come when they are told.
    pub(in crate::cli) fn by_hand() -> Self {
        Self { tell: Arc::new(watch::channel(Told::default()).0) }
    }

    pub(in crate::cli) fn interrupt(&self) {
        self.tell.send_modify(|told| told.times += 1);
    }

    /// The deploy is somebody else's now.
    pub(in crate::cli) fn lose(&self, why: String) {
        self.tell.send_modify(|told| {
            told.times += 1;
            told.lost = Some(why);
        });
    }

    pub(in crate::cli) fn times(&self) -> u32 {
        self.tell.borrow().times
    }

    /// Why it ends, as the rest of a sentence.
    pub(in crate::cli) fn why(&self) -> String {
        self.lost().unwrap_or_else(|| "it was interrupted".to_owned())
    }

    /// Why the deploy is no longer this command's, if it is not: then nothing of it may be touched.
    pub(in crate::cli) fn lost(&self) -> Option<String> {
        self.tell.borrow().lost.clone()
    }

    /// Waits until it was told that often.
    pub(in crate::cli) async fn at_least(&self, times: u32) {
        if self.tell.subscribe().wait_for(|told| told.times >= times).await.is_err() {
            // Nobody is left to tell.
            std::future::pending::<()>().await;
        }
    }

    /// Does something that may be left at any moment, until it is told to end.
    pub(in crate::cli) async fn unless<T>(&self, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        tokio::select! {
            result = work => result,
            () = self.at_least(1) => Err(self.why()),
        }
    }
}
