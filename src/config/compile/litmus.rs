//! Users who are moved on purpose.

use http::Method;

use super::Compiler;
use crate::balance::Policy;
use crate::balance::canary::CanaryBy;
use crate::config::plan::{LitmusPlan, MOST_LITMUS_COOKIES};
use crate::config::spec::{At, LitmusBySpec, LitmusSpec, UpstreamSpec};

impl Compiler<'_> {
    pub(super) fn litmus(&mut self, spec: &UpstreamSpec) -> Option<LitmusPlan> {
        let options = spec.litmus.get_ref().0.as_ref()?;
        if matches!(spec.policy.get_ref(), Policy::Shuffle(_)) {
            let message = "`shuffle` moves everybody, which leaves `litmus` nobody to compare with";
            self.error(spec.policy.span(), message, "choose the policy that users are to have, or remove `litmus`");
        }
        let cookies = options.cookies.get_ref();
        if cookies.len() > MOST_LITMUS_COOKIES {
            let message = format!("{} session cookies are named, which is too many", cookies.len());
            self.error(options.cookies.span(), message, "name 4 at the most");
        }
        if let Some(login) = options.login.as_ref().filter(|login| !login.get_ref().starts_with('/')) {
            let message = format!("`{}` is not a path", login.get_ref().escape_debug());
            self.error(login.span(), message, "write the path that users are sent to, such as \"/login\"");
        }
        if cookies.is_empty() && options.login.is_none() {
            let message = "`litmus` sees 401, 403 and 5xx only: neither session cookies nor a login are named";
            let hint = "name what users have: cookies = [\"session\"], login = \"/login\"";
            self.warn(spec.litmus.span(), message, hint);
        }
        Some(LitmusPlan {
            percent: self.within(&options.percent, "percent", &(1..=50)),
            methods: self.litmus_methods(options),
            cookies: cookies.iter().map(|name| name.get_ref().clone()).collect(),
            login: options.login.as_ref().map(|login| login.get_ref().clone()),
            by: match options.by {
                LitmusBySpec::Cookie => CanaryBy::Cookie,
                LitmusBySpec::Address => CanaryBy::Address,
            },
            cookie: LitmusPlan::cookie(),
        })
    }

    fn litmus_methods(&mut self, options: &LitmusSpec) -> Vec<Method> {
        let list: &Vec<At<String>> = options.methods.get_ref();
        if list.is_empty() {
            self.error(options.methods.span(), "with no method nobody is moved", "write [\"GET\", \"HEAD\"]");
        }
        let mut methods = Vec::new();
        for name in list {
            let text = name.get_ref();
            match Method::from_bytes(text.as_bytes()) {
                Ok(method) if text != "CONNECT" && !text.bytes().any(|b| b.is_ascii_lowercase()) => {
                    if !method.is_safe() {
                        let message = format!(
                            "requests with {method} change something, and go to servers that may not know the user"
                        );
                        self.warn(name.span(), message, "begin with GET and HEAD, the default");
                    }
                    methods.push(method);
                }
                _ => {
                    let message = format!("`{}` is not a method", text.escape_debug());
                    self.error(name.span(), message, "write it in capitals, such as \"GET\"");
                }
            }
        }
        methods
    }
}
