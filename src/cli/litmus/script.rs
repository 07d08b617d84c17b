//! What clients do, step by step, as a TOML file says it.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use regex::Regex;
use serde::{Deserialize, Deserializer, de};

use crate::units;

/// Most steps, repeated ones counted each time: more comparisons need more clients to tell chance apart.
const MOST_STEPS: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Script {
    #[serde(default = "hundred")]
    pub(super) clients: u32,
    /// `Host` of every request; the first server's by default.
    pub(super) host: Option<String>,
    /// Where clients are sent who have to log in.
    pub(super) login: Option<String>,
    /// Absent: guessed.
    pub(super) session_cookies: Option<Vec<String>>,
    /// What a server that is well answers with a status below 400; without it a connection is enough.
    pub(super) health: Option<String>,
    /// Of every request.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default = "ten_seconds", deserialize_with = "duration")]
    pub(super) timeout: Duration,
    #[serde(rename = "step")]
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    name: Option<String>,
    #[serde(default = "get", deserialize_with = "method")]
    pub(super) method: Method,
    pub(super) path: String,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Option<String>,
    pub(super) form: Option<BTreeMap<String, String>>,
    /// Absent: any below 400.
    pub(super) expect: Option<Expect>,
    /// A text that the body must have.
    pub(super) expect_text: Option<String>,
    /// What later steps may fill in, by the first group of a regular expression that the body must match.
    #[serde(default, deserialize_with = "patterns")]
    pub(super) save: BTreeMap<String, Regex>,
    /// Whether the body must be the one that the client had from the same request before.
    #[serde(default)]
    pub(super) same_body: bool,
    #[serde(default = "one")]
    repeat: u32,
    /// Whether servers are restarted before it, where they are at all.
    #[serde(default)]
    restart: bool,
}

fn hundred() -> u32 {
    100
}

fn one() -> u32 {
    1
}

fn get() -> Method {
    Method::GET
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    units::duration(deserializer)
}

fn method<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Method, D::Error> {
    let text = String::deserialize(deserializer)?;
    Method::from_bytes(text.as_bytes()).map_err(|_| de::Error::custom(format!("`{text}` is no method")))
}

fn patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Regex>, D::Error> {
    let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
    let pattern = |(name, text): (String, String)| {
        if name == "client" || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(de::Error::custom(format!(
                "`{name}` cannot be saved: a name has letters, digits and _, and `client` is taken"
            )));
        }
        let regex = Regex::new(&text).map_err(|error| de::Error::custom(format!("`save.{name}`: {error}")))?;
        if regex.captures_len() < 2 {
            return Err(de::Error::custom(format!(
                "`save.{name}` needs a group for what is saved, such as `token=\"([^\"]+)\"`"
            )));
        }
        Ok((name, regex))
    };
    texts.into_iter().map(pattern).collect()
}

/// Statuses that a step may have: `"200"`, `"2xx"`, `"200-399"`, or several of them with commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expect(Vec<(u16, u16)>);

impl Expect {
    pub(super) fn has(&self, status: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }

    fn read(text: &str) -> Option<Self> {
        let one = |text: &str| {
            let text = text.trim();
            let range = if let Some(class) = text.strip_suffix("xx") {
                let class: u16 = class.parse().ok()?;
                (class * 100, class * 100 + 99)
            } else if let Some((first, last)) = text.split_once('-') {
                (first.parse().ok()?, last.parse().ok()?)
            } else {
                (text.parse().ok()?, text.parse().ok()?)
            };
            (range.0 >= 200 && range.0 <= range.1 && range.1 <= 599).then_some(range)
        };
        text.split(',').map(one).collect::<Option<Vec<_>>>().map(Self)
    }
}

impl<'de> Deserialize<'de> for Expect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read(&text).ok_or_else(|| {
            de::Error::custom(format!("`{text}` is no status: write \"200\", \"2xx\", \"200-399\", or \"200, 302\""))
        })
    }
}

impl Step {
    /// What reports call it.
    pub(super) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.request())
    }

    /// What it asks, as the script has it: what is filled in may be secret.
    pub(super) fn request(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut script: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if !(20..=10_000).contains(&script.clients) {
            return Err("`clients` is a number from 20 to 10000".to_owned());
        }
        script.check()?;
        let all = |step: &Step| std::iter::repeat_n(step.clone(), step.repeat as usize).enumerate();
        let repeated = |(turn, step): (usize, Step)| Step { restart: step.restart && turn == 0, ..step };
        script.steps = script.steps.iter().flat_map(all).map(repeated).collect();
        if !(2..=MOST_STEPS).contains(&script.steps.len()) {
            return Err(format!("a script has 2 to {MOST_STEPS} steps: whoever asks once goes nowhere"));
        }
        Ok(script)
    }

    fn check(&self) -> Result<(), String> {
        header_list(&self.headers).map_err(|why| format!("`headers`: {why}"))?;
        let absolute = |path: &Option<String>| path.as_ref().is_none_or(|path| path.starts_with('/'));
        if !absolute(&self.login) || !absolute(&self.health) {
            return Err("`login` and `health` are paths and begin with `/`".to_owned());
        }
        for (at, step) in self.steps.iter().enumerate() {
            let wrong = |why: &str| Err(format!("step {} ({}): {why}", at + 1, step.name()));
            if !step.path.starts_with('/') {
                return wrong("a path begins with `/`");
            }
            if step.body.is_some() && step.form.is_some() {
                return wrong("it has a `body` and a `form`, and may have one of them");
            }
            if !(1..=MOST_STEPS as u32).contains(&step.repeat) {
                return wrong("`repeat` is a number from 1 to 100");
            }
            if step.restart && at == 0 {
                return wrong("a restart before the first step is one that nobody notices");
            }
            if let Err(why) = header_list(&step.headers) {
                return wrong(&why);
            }
        }
        if self.steps.iter().filter(|step| step.restart).count() > 1 {
            return Err("servers are restarted before one step only".to_owned());
        }
        Ok(())
    }

    /// The step before which servers are restarted: the last one, unless another says so.
    pub(super) fn restart_before(&self) -> usize {
        self.steps.iter().position(|step| step.restart).unwrap_or(self.steps.len() - 1)
    }
}

/// Header names can be; values are looked at when they are filled in.
fn header_list(headers: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in headers {
        if HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_str(value).is_err() {
            return Err(format!("`{name}` and its value are no header"));
        }
        if ["host", "cookie", "content-length", "connection"].contains(&name.to_ascii_lowercase().as_str()) {
            return Err(format!("`{name}` is not for a script to set (`host` is a key of its own)"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_and_repeats_itself() {
        let script = Script::read(
            "[[step]]\nname = \"log in\"\nmethod = \"POST\"\npath = \"/login?next=%2F\"\nexpect = \"200, 3xx\"\n\
             [[step]]\npath = \"/cart\"\nrepeat = 3\nrestart = true\n",
        )
        .unwrap();
        assert_eq!((script.steps.len(), script.clients, script.restart_before()), (4, 100, 1));
        assert_eq!(script.steps[0].name(), "log in");
        assert_eq!((script.steps[0].request(), script.steps[3].name()), ("POST /login".into(), "GET /cart".into()));
        let expect = script.steps[0].expect.clone().unwrap();
        assert!(expect.has(200) && expect.has(302) && !expect.has(201) && !expect.has(401));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let step = "[[step]]\npath = \"/\"\n";
        for (text, says) in [
            (step.to_owned(), "2 to 100 steps"),
            (format!("{step}repeat = 2\nexpekt = \"200\""), "expekt"),
            (format!("{step}repeat = 2\nexpect = \"2x\""), "`2x` is no status"),
            (format!("{step}repeat = 2\nsave = {{ token = \"abc\" }}"), "needs a group"),
            (format!("{step}repeat = 2\nsave = {{ client = \"(abc)\" }}"), "is taken"),
            (format!("{step}repeat = 2\nheaders = {{ Cookie = \"a=b\" }}"), "`Cookie` is not for a script"),
            (format!("{step}repeat = 2\nbody = \"x\"\nform = {{ a = \"b\" }}"), "one of them"),
            (format!("{step}repeat = 2\nrestart = true"), "nobody notices"),
            (format!("clients = 3\n{step}repeat = 2"), "20 to 10000"),
            (format!("login = \"login\"\n{step}repeat = 2"), "begin with `/`"),
            ("[[step]]\npath = \"x\"\n".to_owned(), "step 1 (GET x): a path begins with `/`"),
        ] {
            let error = Script::read(&text).unwrap_err();
            assert!(error.contains(says), "{says}: {error}");
        }
    }
}
