//! What else might pick servers.

use super::Compiler;
use crate::balance::sticky_cookie;
use crate::config::plan::{MOST_SHADOWS, ShadowPlan};
use crate::config::spec::{At, UpstreamSpec};

impl Compiler<'_> {
    pub(super) fn shadow(&mut self, spec: &UpstreamSpec) -> Option<ShadowPlan> {
        let list = spec.shadow.get_ref();
        if list.len() > MOST_SHADOWS {
            let message = format!("`shadow` has {} policies", list.len());
            let hint = format!("each is asked for every request: write {MOST_SHADOWS} at most");
            self.error(spec.shadow.span(), message, &hint);
        }
        let mut policies = Vec::with_capacity(list.len());
        for entry in list {
            if policies.contains(entry.get_ref()) {
                let message = format!("`{}` is there twice", entry.get_ref().name());
                self.error(entry.span(), message, "remove one, or give it other options");
            } else {
                policies.push(entry.get_ref().clone());
            }
        }
        let cookie = spec.shadow_cookie.as_ref().and_then(|cookie| self.shadow_cookie(spec, cookie));
        (!policies.is_empty()).then_some(ShadowPlan { policies, cookie })
    }

    fn shadow_cookie(&mut self, spec: &UpstreamSpec, cookie: &At<String>) -> Option<String> {
        let name = cookie.get_ref();
        if !sticky_cookie::is_name(name) {
            let message = format!("`{}` is no name for a cookie", name.escape_debug());
            let hint = "write 1 to 64 letters, digits or any of !#$%&'*+-.^_`|~";
            self.error(cookie.span(), message, hint);
            return None;
        }
        if spec.shadow.get_ref().is_empty() {
            let message = "`shadow_cookie` has nothing to do without `shadow`";
            self.warn(cookie.span(), message, "name the policies: shadow = [\"ip_hash\"]");
        } else if spec.policy.get_ref().sticky().is_some() {
            let message = "`shadow_cookie` is not looked at where the policy has sessions of its own";
            self.warn(cookie.span(), message, "remove it");
        }
        Some(name.clone())
    }
}
