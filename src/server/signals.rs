//! The signals that a service takes.

/// What a signal asks for.
pub(super) enum Signal {
    /// To answer what is under way and end.
    Stop,
    /// To open the run anew.
    Reload,
}

#[cfg(unix)]
pub(super) use unix::Signals;

#[cfg(unix)]
mod unix {
    use tokio::signal::unix::{self, SignalKind, signal};

    use super::Signal;
    use crate::{Error, Result};

    /// SIGINT and SIGTERM, which stop, and SIGHUP, which reloads.
    pub(in crate::server) struct Signals {
        interrupt: unix::Signal,
        terminate: unix::Signal,
        hang_up: unix::Signal,
    }

    impl Signals {
        /// Takes them from now on.
        pub(in crate::server) fn take() -> Result<Self> {
            let take = |kind| {
                signal(kind).map_err(|e| Error::Invalid(format!("signals cannot be taken: {e}")))
            };
            Ok(Self {
                interrupt: take(SignalKind::interrupt())?,
                terminate: take(SignalKind::terminate())?,
                hang_up: take(SignalKind::hangup())?,
            })
        }

        /// The next one.
        pub(in crate::server) async fn next(&mut self) -> Signal {
            tokio::select! {
                _ = self.interrupt.recv() => Signal::Stop,
                _ = self.terminate.recv() => Signal::Stop,
                _ = self.hang_up.recv() => Signal::Reload,
            }
        }
    }
}

/// Ctrl-C, which stops.
#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// Takes it from now on.
    pub(super) fn take() -> crate::Result<Self> {
        Ok(Self)
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::Stop
    }
}
