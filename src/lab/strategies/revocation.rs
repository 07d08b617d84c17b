//! How long a user who was logged out by others still gets in, and where else a session is good.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::ask::{ask, lets_in, login};
use crate::lab::fleet::Fleet;
use crate::lab::scenario::Kept;

/// Until a login is known to all servers that are to know it.
const SETTLED: Duration = Duration::from_secs(5);
/// Between two looks at all servers.
const PACE: Duration = Duration::from_millis(1);
/// A session that outlives its end by this will not end.
const LATE: Duration = Duration::from_secs(3);

/// What came of logging a user out.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Revoked {
    /// Seconds from the order to the first look at which no server let the user in; none where one always did.
    pub out_after_seconds: Option<f64>,
    /// Servers that let the user in before.
    pub let_in_before: usize,
    /// Servers that had to be told.
    pub told: usize,
    /// Whether a server could do anything about it.
    pub could: bool,
}

/// Logs somebody in, then out again by an order to the servers, and asks each of them until none lets the user in.
pub(super) fn revoke(fleet: &Fleet, kept: Kept, life: Duration, stopped: &dyn Fn() -> bool) -> io::Result<Revoked> {
    const USER: &str = "revoked";
    let servers = fleet.servers();
    let at = *servers.last().ok_or(io::ErrorKind::NotFound)?;
    let session = login(at, USER, Some(life))?;
    let came = Instant::now();
    let let_in = || -> io::Result<usize> {
        let answers: io::Result<Vec<bool>> = servers.iter().map(|server| lets_in(*server, &session)).collect();
        Ok(answers?.into_iter().filter(|is| *is).count())
    };
    let mut let_in_before = let_in()?;
    while kept == Kept::Replicated && let_in_before < servers.len() && came.elapsed() < SETTLED.min(life / 2) {
        let_in_before = let_in()?;
    }
    let ordered = Instant::now();
    let (mut told, mut could) = (0, false);
    for server in &servers {
        told += 1;
        could |= ask(*server, "POST", &format!("/sessions/revoke?user={USER}"), None)?.status == 200;
        // Nobody knows in whose memory a session is; everything else is one place, or none.
        if kept != Kept::Memory {
            break;
        }
    }
    let out_after = loop {
        let looked = ordered.elapsed();
        if let_in()? == 0 {
            break Some(looked);
        }
        if came.elapsed() > life + LATE || stopped() {
            break None;
        }
        std::thread::sleep(PACE);
    };
    Ok(Revoked { out_after_seconds: out_after.map(|after| after.as_secs_f64()), let_in_before, told, could })
}

/// Whether a server of another service lets a user in who has logged in here, and the length of the cookie's value.
pub(super) fn elsewhere(fleet: &Fleet) -> io::Result<(bool, usize)> {
    let here: SocketAddr = *fleet.servers().first().ok_or(io::ErrorKind::NotFound)?;
    let session = login(here, "traveller", None)?;
    if !lets_in(here, &session)? {
        return Err(io::Error::other("a server does not know a session that it has just started"));
    }
    Ok((lets_in(fleet.other_service()?, &session)?, session.len()))
}
