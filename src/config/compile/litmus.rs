//! Users who are moved on purpose.

use http::Method;

use super::Compiler;
use crate::balance::Policy;
use crate::balance::canary::CanaryBy;
use crate::config::plan::{LitmusPlan, MOST_LITMUS_BODIES, MOST_LITMUS_COOKIES};
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
        let (methods, same_body) = (self.litmus_methods(options), self.litmus_bodies(options));
        if cookies.is_empty() && options.login.is_none() && options.same_body.get_ref().is_empty() {
            let message = "`litmus` sees 401, 403 and 5xx only: no session cookie, login or body is named";
            let hint = "name what users have: cookies = [\"session\"], login = \"/login\", same_body = [\"/account\"]";
            self.warn(spec.litmus.span(), message, hint);
        }
        Some(LitmusPlan {
            percent: self.within(&options.percent, "percent", &(1..=50)),
            methods,
            cookies: cookies.iter().map(|name| name.get_ref().clone()).collect(),
            login: options.login.as_ref().map(|login| login.get_ref().clone()),
            same_body,
            by: match options.by {
                LitmusBySpec::Cookie => CanaryBy::Cookie,
                LitmusBySpec::Address => CanaryBy::Address,
            },
            cookie: LitmusPlan::cookie(),
        })
    }

    fn litmus_bodies(&mut self, options: &LitmusSpec) -> Vec<String> {
        let list: &Vec<At<String>> = options.same_body.get_ref();
        if list.len() > MOST_LITMUS_BODIES {
            let message = format!("{} paths are named whose bodies are compared, which is too many", list.len());
            self.error(options.same_body.span(), message, "name 4 at the most");
        }
        let moves = options.methods.get_ref().iter().any(|name| name.get_ref() == "GET");
        if !list.is_empty() && !moves {
            let message = "`same_body` compares answers to GET, which is not one of `methods`";
            self.error(options.same_body.span(), message, "add \"GET\" to `methods`, or remove `same_body`");
        }
        for (at, path) in list.iter().enumerate() {
            if let Some(first) = list[..at].iter().find(|first| first.get_ref() == path.get_ref()) {
                let message = format!("`{}` is named twice", path.get_ref().escape_debug());
                self.twice(path.span(), first.span(), message, "remove one");
            } else if let Some((plain, _)) = path.get_ref().split_once('?') {
                let hint = format!("write \"{}\"", plain.escape_debug());
                self.error(path.span(), "requests with a query are not compared", &hint);
            } else {
                self.plain_path(path.span(), path.get_ref());
            }
        }
        list.iter().map(|path| path.get_ref().clone()).collect()
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
