//! Stands in for the assembly of both planes; deleted when it is here.

pub(super) mod engine {
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use crate::config::{Loaded, Plan};

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

    #[allow(dead_code)]
    #[derive(Debug, thiserror::Error)]
    pub(in crate::cli) enum StartError {
        #[error("{what} cannot listen on {address}: {source}")]
        CannotBind { what: String, address: String, source: std::io::Error },
        #[error("the configuration is invalid")]
        InvalidConfig { report: String },
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
