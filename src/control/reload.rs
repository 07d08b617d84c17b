//! A new configuration in place of the one in force: all of it, or nothing.
//!
//! Everything that can fail is done first, on the side: reading, checking, keys, new sockets. What is
//! left cannot fail and is published at once, so no request ever sees half of it.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tracing::{error, info, warn};

use super::api::Reloaded;
use super::bind::Bound;
use super::certificates::Terminator;
use super::error::CommandError;
use super::supervisor::Supervisor;
use crate::balance::sticky_cookie::Keys;
use crate::config::plan::{ListenerPlan, UpstreamPlan};
use crate::config::{self, Plan};
use crate::upstream::{Ledger, Route, Routes, Sticky};

/// Reads a configuration: the Plan and its warnings, or the report rendered for people.
pub(super) type Load = Arc<dyn Fn(Source<'_>) -> Result<(Plan, Vec<String>), String> + Send + Sync>;

/// Where a configuration is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    File(&'a Path),
    Text { name: &'a str, text: &'a str },
}

/// Reads a configuration.
pub(super) fn load(source: Source<'_>) -> Result<(Plan, Vec<String>), String> {
    let loaded = match source {
        Source::File(path) => config::load(path),
        Source::Text { name, text } => config::parse(text, name),
    };
    let loaded = loaded.map_err(|report| report.render(false))?;
    Ok((loaded.plan, loaded.warnings.lines()))
}

/// Everything that a Plan needs and that may be refused, done but not in force.
#[derive(Debug)]
pub(super) struct Prepared {
    opened: Vec<(ListenerPlan, Bound)>,
    /// By name of the upstream; those with a sticky policy only.
    keys: HashMap<String, Keys>,
    /// By position of the listener.
    tls: Vec<Option<Arc<Terminator>>>,
}

/// Keeps what TLS with servers was made from where it would be made the same again: with it go the
/// sessions that can be resumed, and connections know by it that they may still be used.
pub(super) fn keep_sessions(old: &Plan, new: &mut Plan) {
    for upstream in &mut new.upstreams {
        if let Some(before) = old.upstreams.iter().find(|before| before.name == upstream.name)
            && before.tls == upstream.tls
        {
            upstream.tls.clone_from(&before.tls);
        }
    }
}

impl Supervisor {
    /// Reads the configuration again and puts it in force.
    pub(super) async fn reload(&mut self) -> Result<Reloaded, CommandError> {
        let result = self.try_reload().await;
        match &result {
            Ok(reloaded) => {
                self.row.reloaded();
                for warning in &reloaded.warnings {
                    warn!("{warning}");
                }
                info!(generation = reloaded.generation, changes = ?reloaded.changes, "configuration reloaded");
            }
            Err(CommandError::InvalidConfig { report }) => {
                error!("configuration not reloaded, the old one goes on\n{report}");
            }
            Err(refused) => error!("configuration not reloaded, the old one goes on: {refused}"),
        }
        result
    }

    async fn try_reload(&mut self) -> Result<Reloaded, CommandError> {
        if self.stopping.is_some() {
            return Err(CommandError::stopping());
        }
        if self.row.is_inheriting() {
            return Err(CommandError::Busy { message: "this process has not taken over yet".to_owned() });
        }
        let Some(path) = self.config_path.clone() else {
            return Err(CommandError::Conflict {
                message: "there is no file to reload: evenkeel was started without one".to_owned(),
            });
        };
        let load = Arc::clone(&self.load);
        // Probes and the admin API go on while a large file is read.
        let loaded = tokio::task::spawn_blocking(move || load(Source::File(&path)))
            .await
            .map_err(|error| CommandError::System { doing: "reading the configuration", source: error.into() })?;
        let (mut file, mut warnings) = loaded.map_err(|report| CommandError::InvalidConfig { report })?;
        keep_sessions(&self.file, &mut file);
        let mut members = self.members.clone();
        members.prune(&file);
        let plan = members.over(&file);
        let diff = config::diff(&self.plan, &plan);
        if !diff.needs_restart.is_empty() {
            return Err(CommandError::NeedsRestart { fields: diff.needs_restart });
        }
        if plan != self.plan {
            let prepared = self.prepare(&plan)?;
            warnings.extend(self.too_late(&plan));
            self.put_in_force(plan, prepared);
        } else {
            // The same names may be those of new files.
            self.terminators.look(false);
        }
        self.file = file;
        self.members = members;
        self.keep_marks();
        warnings.extend(self.differences());
        let changes = diff.changes.iter().map(ToString::to_string).collect();
        Ok(Reloaded { generation: self.plane.swap.generation(), changes, warnings })
    }

    /// What takes effect only for upstreams that are new.
    fn too_late(&self, plan: &Plan) -> Vec<String> {
        let resized = |u: &&UpstreamPlan| {
            let group = self.registry.group(&u.name);
            group.is_some_and(|g| {
                g.sticky.is_some() && u.policy.sticky().is_some() && g.plan.max_sessions != u.max_sessions
            })
        };
        let upstreams = plan.upstreams.iter().filter(resized);
        upstreams.map(|u| format!("upstream `{}`: max_sessions takes effect at the next start", u.name)).collect()
    }

    /// Does everything for `plan` that may fail. Nothing is in force yet.
    pub(super) fn prepare(&mut self, plan: &Plan) -> Result<Prepared, CommandError> {
        let mut keys = HashMap::new();
        for upstream in plan.upstreams.iter().filter(|u| u.policy.sticky().is_some()) {
            let secrets = match upstream.cookie_keys.as_slice() {
                [] => self.store.cookie_keys(Keys::fresh_secret).map_err(|error| CommandError::System {
                    doing: "making a cookie key",
                    source: io::Error::other(error),
                })?,
                configured => configured.to_vec(),
            };
            let made = Keys::new(&secrets).map_err(|error| CommandError::InvalidConfig {
                report: format!("upstream {}: cookie keys: {error}", upstream.name),
            })?;
            keys.insert(upstream.name.clone(), made);
        }
        let mut terminator = |listener| Terminator::of(listener, &mut self.store);
        let tls = plan.listeners.iter().map(&mut terminator).collect::<Result<_, _>>()?;
        let opened = self.listeners.open(&plan.listeners, self.plane.orders.len())?;
        Ok(Prepared { opened, keys, tls })
    }

    /// Puts `plan` in force in one publication. Cannot fail.
    pub(super) fn put_in_force(&mut self, plan: Plan, prepared: Prepared) {
        let cores = self.plane.orders.len();
        let mut begin = Vec::new();
        let mut check_again = Vec::new();
        let gone = self.registry.retain(|name| plan.upstreams.iter().any(|u| u.name == name));
        for (old, members) in gone {
            self.leave(&old, members);
        }
        let Prepared { opened, mut keys, tls } = prepared;
        for upstream in &plan.upstreams {
            let sticky = keys.remove(&upstream.name).map(|keys| self.sticky(upstream, keys, cores));
            let applied = self.registry.apply(upstream, sticky, cores);
            if applied.check_changed {
                let group = self.registry.group(&upstream.name);
                check_again.extend(group.iter().flat_map(|g| &g.uids).filter(|uid| !applied.new.contains(uid)));
            }
            begin.extend(applied.new);
            self.leave(upstream, applied.gone);
        }
        self.compile_routes(&plan, cores);
        self.set_debug(&plan.debug);
        let orders = self.listeners.adopt(&plan.listeners, opened, cores);
        self.terminators.replace(&tls);
        self.tls = tls;
        self.plan = plan;
        self.restore(&begin);
        self.carry_health(&begin);
        // Servers without a check are healthy before anyone can see them.
        for uid in begin {
            self.begin(uid);
        }
        for uid in check_again {
            self.begin_checks(uid);
        }
        orders.unlisten(&self.plane);
        self.stale = true;
        // What traffic has shown may be judged by other rules now.
        self.next_look = Duration::ZERO;
        self.publish();
        if let Some(orders) = self.hold_back(orders) {
            orders.listen(&self.plane);
        }
        self.shared.set_addresses(self.listeners.addresses());
    }

    /// What a sticky upstream keeps over reloads, with the keys it has now.
    fn sticky(&self, plan: &UpstreamPlan, keys: Keys, cores: usize) -> Arc<Sticky> {
        let sticky = match self.registry.group(&plan.name).and_then(|group| group.sticky.as_ref()) {
            Some(sticky) => {
                sticky.keys.store(Arc::new(keys));
                Arc::clone(sticky)
            }
            None => Arc::new(Sticky {
                keys: ArcSwap::from_pointee(keys),
                ledger: Ledger::new(plan.max_sessions),
                cells: (0..cores).map(|_| Default::default()).collect(),
            }),
        };
        sticky.ledger.set_idle(u32::try_from(plan.drain.sessions_idle.as_secs()).unwrap_or(u32::MAX));
        sticky
    }

    fn compile_routes(&mut self, plan: &Plan, cores: usize) {
        let mut cells_before = std::mem::take(&mut self.route_cells);
        let mut by_listener: Vec<Vec<Arc<Route>>> = vec![Vec::new(); plan.listeners.len()];
        for route in &plan.routes {
            let cells =
                cells_before.remove(&route.name).unwrap_or_else(|| (0..cores).map(|_| Default::default()).collect());
            self.route_cells.insert(route.name.clone(), Arc::clone(&cells));
            let compiled = Arc::new(Route::new(route.clone(), cells, &plan.upstreams));
            for listener in &route.listeners {
                by_listener[*listener].push(Arc::clone(&compiled));
            }
        }
        self.routes = by_listener.into_iter().map(|routes| Arc::new(Routes::new(routes))).collect();
    }
}
