//! What tells that a server did not know its client.

use http::header::{LOCATION, SET_COOKIE};
use regex::Regex;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use super::jar::Jar;
use super::script::{Script, Step};
use super::servers::Answer;
use crate::path::{is_session, shown};

/// One way in which an answer is wrong for a client that did everything right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli) enum Symptom {
    /// 401 or 403.
    Refused,
    /// A redirect to where one logs in.
    Login,
    /// Another value for a session cookie that the client had sent, or its end.
    Reissued,
    /// 5xx, or no answer.
    Failed,
    /// Another status than the script expects, or not the text.
    Unexpected,
    /// Another body than before.
    Body,
}

impl Symptom {
    pub(in crate::cli) const ALL: [Self; 6] =
        [Self::Refused, Self::Login, Self::Reissued, Self::Failed, Self::Unexpected, Self::Body];

    /// The name that JSON and the admin API use.
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Login => "login",
            Self::Reissued => "reissued",
            Self::Failed => "failed",
            Self::Unexpected => "unexpected",
            Self::Body => "body",
        }
    }

    /// What clients got, for people.
    pub(in crate::cli) fn words(self) -> &'static str {
        match self {
            Self::Refused => "401 or 403",
            Self::Login => "a redirect to the login",
            Self::Reissued => "another session cookie",
            Self::Failed => "5xx or no answer",
            Self::Unexpected => "an unexpected answer",
            Self::Body => "a changed body",
        }
    }
}

/// What a client has of the step's request from before, and what was seen in its answer.
pub(super) struct Judged {
    pub(super) symptoms: Vec<Symptom>,
    /// What of it tells, without any value of a cookie.
    pub(super) what: String,
}

/// Judges an answer, and puts its cookies into the jar. `before` is the hash of the body of the client's first
/// answer to the same request.
pub(super) fn judge(
    script: &Script,
    step: &Step,
    path: &str,
    answer: Result<&Answer, &String>,
    jar: &mut Jar,
    before: Option<u128>,
) -> Judged {
    let mut judged = Judged { symptoms: Vec::new(), what: String::new() };
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => {
            judged.add(Symptom::Failed, why.clone());
            return judged;
        }
    };
    let status = answer.status;
    let is_expected = step.expect.as_ref().map_or(status < 400, |expect| expect.has(status));
    let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok()).filter(|_| status / 100 == 3);
    let login = location.and_then(|location| leads_to_login(location, script.login.as_deref()));
    if let Some(login) = login {
        judged.add(Symptom::Login, format!("{status} to {login}"));
    } else if !is_expected {
        let symptom = match status {
            401 | 403 => Symptom::Refused,
            500.. => Symptom::Failed,
            _ => Symptom::Unexpected,
        };
        judged.add(symptom, status.to_string());
    } else {
        let text = String::from_utf8_lossy(&answer.body);
        let lacks = |pattern: &Regex| !pattern.is_match(&text);
        if step.expect_text.as_ref().is_some_and(|wanted| !text.contains(wanted.as_str())) {
            judged.add(Symptom::Unexpected, format!("{status} without the text"));
        } else if let Some((name, _)) = step.save.iter().find(|(_, pattern)| lacks(pattern)) {
            judged.add(Symptom::Unexpected, format!("{status} without `{name}` to save"));
        }
        if step.same_body && before.is_some_and(|before| before != xxh3_128(&answer.body)) {
            judged.add(Symptom::Body, format!("{status} with another body than before"));
        }
    }
    for line in answer.headers.get_all(SET_COOKIE) {
        let Some(set) = line.to_str().ok().and_then(|line| jar.take(line, path)) else { continue };
        if set.is_other && set.is_session(script.session_cookies.as_deref()) {
            judged.add(Symptom::Reissued, format!("{status} with another `{}`", set.name));
        }
    }
    judged
}

impl Judged {
    fn add(&mut self, symptom: Symptom, what: String) {
        if self.symptoms.contains(&symptom) {
            return;
        }
        self.symptoms.push(symptom);
        self.what = if self.what.is_empty() { what } else { format!("{}, {what}", self.what) };
    }
}

/// The path of a redirect that leads to where one logs in: to `login`, or to a path that looks like it. Without
/// parameters (`;jsessionid=…`) and sessions in the path (`(S(…))`), which are secrets as much as a query may be, and
/// with parts as long as a token left out.
fn leads_to_login(location: &str, login: Option<&str>) -> Option<String> {
    let whole = location.split(['?', '#']).next()?;
    let rest = whole.split_once("://").map_or(whole, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    let plain = |part: &str| part.split(';').next().unwrap_or_default().to_owned();
    let path = rest.split('/').filter(|part| !is_session(part)).map(plain).collect::<Vec<_>>().join("/");
    let is_login = match login {
        Some(login) => path.strip_prefix(login).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        None => path.split('/').any(|part| {
            let part: String = part.chars().filter(char::is_ascii_alphanumeric).collect();
            let part = part.to_ascii_lowercase();
            part.starts_with("login") || part.starts_with("signin")
        }),
    };
    is_login.then(|| shown(&path))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    fn script(step: &str) -> Script {
        Script::read(&format!("[[step]]\npath = \"/\"\n{step}\n[[step]]\npath = \"/x\"\n")).unwrap()
    }

    fn seen(step: &str, answer: (u16, &[(&'static str, &str)], &str), jar: &mut Jar) -> (Vec<Symptom>, String) {
        let script = script(step);
        let mut headers = HeaderMap::new();
        for (name, value) in answer.1 {
            headers.append(*name, value.parse().unwrap());
        }
        let answer = Answer { status: answer.0, headers, body: Bytes::from(answer.2.to_owned()) };
        let judged = judge(&script, &script.steps[0], "/", Ok(&answer), jar, Some(xxh3_128(b"old")));
        (judged.symptoms, judged.what)
    }

    #[test]
    fn each_symptom_is_told_from_the_others() {
        let jar = &mut Jar::default();
        let mut only = |step: &str, answer: (u16, &[(&'static str, &str)], &str)| seen(step, answer, jar);
        assert_eq!(only("", (200, &[], "")).0, []);
        assert_eq!(only("", (401, &[], "")), (vec![Symptom::Refused], "401".into()));
        assert_eq!(only("expect = \"401\"", (401, &[], "")).0, []);
        assert_eq!(only("expect = \"401\"", (200, &[], "")).0, [Symptom::Unexpected]);
        assert_eq!(only("", (404, &[], "")).0, [Symptom::Unexpected]);
        assert_eq!(only("", (503, &[], "")).0, [Symptom::Failed]);
        assert_eq!(
            only("", (302, &[("location", "https://x/Sign-In?next=%2F")], "")),
            (vec![Symptom::Login], "302 to /Sign-In".into())
        );
        assert_eq!(only("", (302, &[("location", "/cart")], "")).0, []);
        assert_eq!(only("expect_text = \"2 items\"", (200, &[], "0 items")).0, [Symptom::Unexpected]);
        assert_eq!(only("expect_text = \"2 items\"", (200, &[], "2 items")).0, []);
        assert_eq!(only("save = { id = \"n=(.)\" }", (200, &[], "x")).0, [Symptom::Unexpected]);
        assert_eq!(only("same_body = true", (200, &[], "old")).0, []);
        assert_eq!(only("same_body = true", (200, &[], "new")).0, [Symptom::Body]);
    }

    #[test]
    fn a_session_cookie_that_is_issued_again_is_told_without_its_value() {
        let mut jar = Jar::default();
        assert_eq!(seen("", (200, &[("set-cookie", "sid=first; HttpOnly")], ""), &mut jar).0, []);
        let (symptoms, what) = seen("", (200, &[("set-cookie", "sid=secret; HttpOnly")], ""), &mut jar);
        assert_eq!(symptoms, [Symptom::Reissued]);
        assert_eq!(what, "200 with another `sid`");
    }

    #[test]
    fn a_login_may_be_elsewhere() {
        let leads_to_login = |location: &str, login: Option<&str>| leads_to_login(location, login).unwrap_or_default();
        assert_eq!(leads_to_login("/enter?x", Some("/enter")), "/enter");
        assert_eq!(leads_to_login("/login", Some("/enter")), "");
        assert_eq!(leads_to_login("/enterprise", Some("/enter")), "");
        assert_eq!(leads_to_login("https://sso.example", None), "");
        assert_eq!(leads_to_login("https://x/users/log_in", None), "/users/log_in");
        assert_eq!(leads_to_login("/login?next=https://x/cart", None), "/login");
        // Sessions that go without cookies stay secret.
        for location in ["/login;jsessionid=0A1B", "/login;jsessionid=0A1B?x", "https://x/login;a=0A1B;b=0A1B"] {
            assert_eq!(leads_to_login(location, None), "/login");
            assert_eq!(leads_to_login(location, Some("/login")), "/login");
        }
        assert_eq!(leads_to_login("/app;v=0A1B/login", None), "/app/login");
        assert_eq!(leads_to_login("/cart;login=0A1B", None), "");
        for location in ["/(S(lit3py55t21z5v55vlm25s55))/login.aspx", "https://x/%28S%28lit3%29%29/login.aspx?a"] {
            assert_eq!(leads_to_login(location, None), "/login.aspx");
            assert_eq!(leads_to_login(location, Some("/login.aspx")), "/login.aspx");
        }
        assert_eq!(leads_to_login("/login/0123456789abcdef012345678", None), "/login/…");
    }
}
