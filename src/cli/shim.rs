//! Stands in for rooms that are written elsewhere; deleted when they are here.

pub(super) mod config {
    use std::path::Path;

    use crate::config::Plan;

    #[derive(Debug, Clone, PartialEq)]
    pub(in crate::cli) struct Loaded {
        pub(in crate::cli) plan: Plan,
        pub(in crate::cli) warnings: Report,
    }

    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
    pub(in crate::cli) struct Report(Vec<String>);

    impl Report {
        pub(in crate::cli) fn render(&self, _color: bool) -> String {
            self.0.join("\n")
        }

        pub(in crate::cli) fn is_empty(&self) -> bool {
            self.0.is_empty()
        }
    }

    pub(in crate::cli) fn load(path: &Path) -> Result<Loaded, Report> {
        Err(Report(vec![format!("{}: not here yet", path.display())]))
    }

    pub(in crate::cli) fn parse(_text: &str, file_name: &str) -> Result<Loaded, Report> {
        Err(Report(vec![format!("{file_name}: not here yet")]))
    }

    pub(in crate::cli) fn from_flags(_listen: &[String], _to: &[String]) -> Result<Loaded, Report> {
        Err(Report(vec!["not here yet".to_owned()]))
    }
}

pub(super) mod engine {
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use super::config::Loaded;
    use crate::config::Plan;

    pub(in crate::cli) type Adjust = Box<dyn Fn(&mut Plan) + Send + Sync>;

    pub(in crate::cli) struct Options {
        /// What a reload reads; none refuses reloads.
        pub(in crate::cli) config: Option<PathBuf>,
        /// Applied to every Plan that a reload reads.
        pub(in crate::cli) adjust: Option<Adjust>,
        /// Whether HUP, USR1, TERM, INT and QUIT are handled.
        pub(in crate::cli) signals: bool,
    }

    #[derive(Debug)]
    pub(in crate::cli) struct Evenkeel;

    #[derive(Debug, thiserror::Error)]
    pub(in crate::cli) enum StartError {
        #[error("cannot listen on {address}: {source}")]
        Bind { address: String, source: std::io::Error },
        #[error("{0}")]
        Other(String),
    }

    impl Evenkeel {
        /// Bound listeners, in the order of the Plan.
        pub(in crate::cli) fn addresses(&self) -> Vec<SocketAddr> {
            Vec::new()
        }

        /// TCP address of the admin API.
        pub(in crate::cli) fn admin(&self) -> Option<SocketAddr> {
            None
        }

        /// Returns when it has stopped; an error is why it stopped without being told to.
        pub(in crate::cli) fn wait(self) -> Result<(), String> {
            Ok(())
        }
    }

    pub(in crate::cli) fn start(loaded: Loaded, options: Options) -> Result<Evenkeel, StartError> {
        let _ = (loaded, options.config, options.adjust, options.signals);
        Err(StartError::Other("not here yet".to_owned()))
    }
}

pub(super) mod origin {
    use std::io;
    use std::net::SocketAddr;
    use std::time::Duration;

    pub(in crate::cli) struct Options {
        pub(in crate::cli) log: Option<Box<dyn io::Write + Send>>,
        pub(in crate::cli) grace: Duration,
    }

    impl Options {
        pub(in crate::cli) fn new(_listen: SocketAddr, _name: impl Into<String>) -> Self {
            Self { log: None, grace: Duration::from_secs(5) }
        }
    }

    pub(in crate::cli) struct Server;

    impl Server {
        pub(in crate::cli) fn bind(options: Options) -> io::Result<Self> {
            let _ = (options.log, options.grace);
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in crate::cli) fn address(&self) -> SocketAddr {
            SocketAddr::from(([127, 0, 0, 1], 0))
        }

        pub(in crate::cli) async fn serve(self, shutdown: impl Future<Output = ()>) {
            shutdown.await;
        }
    }

    pub(in crate::cli) struct Origin;

    impl Origin {
        pub(in crate::cli) fn start_at(_address: SocketAddr, _name: &str) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in crate::cli) fn address(&self) -> SocketAddr {
            SocketAddr::from(([127, 0, 0, 1], 0))
        }
    }
}
