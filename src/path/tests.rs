use proptest::prelude::*;

use super::*;

fn forwarded(path: &str) -> Result<String, Refused> {
    clean(path, true).map(|c| c.path.unwrap_or_else(|| path.to_owned()))
}

/// What routes compare.
fn seen(path: &str) -> Result<String, Refused> {
    clean(path, true).map(|c| c.compared.or(c.path).unwrap_or_else(|| path.to_owned()))
}

#[test]
fn paths_are_shown_without_secrets() {
    for (path, is) in [
        ("/", "/"),
        ("/orders/42/", "/orders/42/"),
        ("/account;jsessionid=8F3A/x", "/account;…"),
        ("/reset/0123456789abcdef01234567/ok", "/reset/0123456789abcdef01234567/ok"),
        ("/reset/0123456789abcdef012345678/ok", "/reset/…/ok"),
        ("/shop/(S(lit3py55t21z5v55vlm25s55))/cart.aspx", "/shop/(…)/cart.aspx"),
        ("/(S(a))", "/(…)"),
        ("/(A(aB3)F(c-4_)S(x))/", "/(…)/"),
        ("/%28S%28lit3%29%29/cart.aspx", "/(…)/cart.aspx"),
        ("/wiki/Rust_(game)", "/wiki/Rust_(game)"),
        ("/f(x)/(S)/((a))", "/f(x)/(S)/((a))"),
    ] {
        assert_eq!(shown(path), is);
    }
}

#[test]
fn ordinary_paths_are_left_alone() {
    for path in [
        "/",
        "/a/b.c/d-e_f~g",
        "/a/",
        "/.well-known/x",
        "/..a/...",
        "/@scope/a+b,c=d(e)!",
        "/a%20b%25",
        "/caf%C3%A9/%E2%82%AC/%F0%9F%98%80",
        "/100%25-sure",
    ] {
        assert_eq!(clean(path, true), Ok(Cleaned::default()), "{path}");
        assert!(is_clean(path.as_bytes(), true), "{path} takes the slow way");
    }
}

#[test]
fn a_path_has_one_form() {
    for (path, form) in [
        ("/%61%2Db", "/a-b"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/café", "/caf%C3%A9"),
        ("/a|b\"{}^`[]", "/a%7Cb%22%7B%7D%5E%60%5B%5D"),
        ("//a///b//", "/a/b/"),
        ("/./a/.//b/.", "/a/b/"),
        ("/a/b/../c", "/a/c"),
        ("/a/b/..", "/a/"),
        ("/a/..", "/"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a//../b", "/b"),
        ("/a;v=1/b;w", "/a;v=1/b;w"),
        ("/a%3bb", "/a%3Bb"),
        ("/a%40b", "/a%40b"),
    ] {
        assert_eq!(forwarded(path).as_deref(), Ok(form), "{path}");
    }
    let kept = clean("//a//../b", false).map(|c| c.path);
    assert_eq!(kept, Ok(Some("//a/b".to_owned())), "an empty segment is one where they are kept");
}

#[test]
fn routes_compare_names_without_parameters_and_punctuation_in_clear() {
    for (path, compared) in [
        ("/admin;x=1/a", "/admin/a"),
        ("/admin%3bx/a", "/admin/a"),
        ("/;jsessionid=1", "/"),
        ("/a/;x", "/a/"),
        ("/%40me/a%2Bb", "/@me/a+b"),
        ("/a%20%3A", "/a%20:"),
    ] {
        assert_eq!(seen(path).as_deref(), Ok(compared), "{path}");
    }
}

#[test]
fn what_no_form_makes_safe_is_refused() {
    for (path, why) in [
        ("/..", LEAVES),
        ("/a/../../b", LEAVES),
        ("/%2e%2e/a", LEAVES),
        ("/a%00", CONTROL),
        ("/a%0d%0a", CONTROL),
        ("/%7f", CONTROL),
        ("/a%", BROKEN),
        ("/a%2", BROKEN),
        ("/a%zz", BROKEN),
        ("/%u002e", BROKEN),
        ("/a/..;/b", DOTS),
        ("/a/..;x=1/b", DOTS),
        ("/a/.;/b", DOTS),
        ("/a/..%3b/b", DOTS),
        ("/a/..%2fb", DOTS),
        ("/a/%2e%2e%5cb", DOTS),
        ("/a/x%2f..", DOTS),
        ("/a\\..\\b", DOTS),
        ("/;x/b", NAMELESS),
        ("/a%c0%af", OVERLONG),
        ("/%c0%ae%c0%ae/", OVERLONG),
        ("/%e0%80%af", OVERLONG),
        ("/%f0%80%80%af", OVERLONG),
        ("a", ROOTLESS),
        ("", ROOTLESS),
        ("*", ROOTLESS),
    ] {
        assert_eq!(clean(path, true), Err(why), "{path}");
    }
}

#[test]
fn what_servers_do_not_agree_on_is_for_a_route_to_allow() {
    for (path, escapes) in [
        ("/a%2fb", Escapes::SLASH),
        ("/a%5cb", Escapes::SLASH),
        ("/a\\b", Escapes::SLASH),
        ("/a%252fb", Escapes::DOUBLE),
        ("/%252e%252e/", Escapes::DOUBLE),
        ("/%25252e", Escapes::DOUBLE),
        ("/%25%34%31", Escapes::DOUBLE),
        ("/caf%e9", Escapes::BYTES),
        ("/a%2Fb%ff%2541", Escapes::SLASH.or(Escapes::DOUBLE).or(Escapes::BYTES)),
    ] {
        assert_eq!(clean(path, true).map(|c| c.escapes), Ok(escapes), "{path}");
    }
    assert_eq!(Escapes::SLASH.or(Escapes::BYTES).to_string(), "slash, bytes");
    assert_eq!(Escapes::default().to_string(), "none");
}

/// How a server reads a path. There are more servers than this, but each does some of these.
#[derive(Debug, Clone, Copy)]
struct Server {
    splits_first: bool,
    knows_parameters: bool,
    strips_first: bool,
    backslash_is_slash: bool,
    decodes_twice: bool,
}

impl Server {
    fn all() -> impl Iterator<Item = Self> {
        (0..32_u8).map(|n| Self {
            splits_first: n & 1 != 0,
            knows_parameters: n & 2 != 0,
            strips_first: n & 4 != 0,
            backslash_is_slash: n & 8 != 0,
            decodes_twice: n & 16 != 0,
        })
    }

    /// The names that the server looks up, empty and dot segments resolved.
    fn read(self, path: &str) -> Vec<Vec<u8>> {
        let mut text = path.as_bytes().to_vec();
        if !self.splits_first {
            text = self.decode(&text);
        }
        let is_slash = |b: &u8| *b == b'/' || (self.backslash_is_slash && *b == b'\\');
        let mut names: Vec<Vec<u8>> = Vec::new();
        for segment in text.split(is_slash) {
            let mut name = segment.to_vec();
            if self.knows_parameters && self.strips_first {
                name = strip(&name);
            }
            if self.splits_first {
                name = self.decode(&name);
            }
            if self.knows_parameters && !self.strips_first {
                name = strip(&name);
            }
            match &*name {
                b"" | b"." => {}
                b".." => drop(names.pop()),
                _ => names.push(name),
            }
        }
        names
    }

    fn decode(self, text: &[u8]) -> Vec<u8> {
        let once = decode(text);
        if self.decodes_twice { decode(&once) } else { once }
    }
}

fn strip(segment: &[u8]) -> Vec<u8> {
    segment.split(|b| *b == b';').next().unwrap().to_vec()
}

fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match unescape(&text[at..]) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

fn paths() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "/", "/", ".", "..", "%2e", "%2E", "%2f", "%5C", "\\", ";", "%3b", "a", "B", "%41", "%25", "%", "%00",
        "%c0%af", "%c3%a9", "é", "%e9", "|", "@", "%40", "%2", "41", "2f", "2e", "%32", " ", "~",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_form_is_its_own_form(path in paths(), merge in any::<bool>()) {
        if let Ok(first) = clean(&path, merge) {
            let form = first.path.clone().unwrap_or(path);
            let again = clean(&form, merge).unwrap();
            prop_assert_eq!(again.path, None);
            prop_assert_eq!(again.compared, first.compared);
            prop_assert!(again.escapes.is_within(first.escapes), "{:?}", again.escapes);
        }
    }

    #[test]
    fn the_quick_look_agrees_with_the_slow_one(path in paths(), merge in any::<bool>()) {
        if is_clean(path.as_bytes(), merge) {
            let mut writer = Writer::default();
            let mut segments = path.as_bytes()[1..].split(|b| *b == b'/').peekable();
            while let Some(segment) = segments.next() {
                writer.segment(segment, segments.peek().is_none(), merge).unwrap();
            }
            prop_assert_eq!(compared(&writer.out), None);
            prop_assert_eq!((writer.out, writer.escapes), (path, Escapes::default()));
        }
    }

    /// The property that all of this is for: whatever a server makes of what it gets, it is what was
    /// compared.
    #[test]
    fn every_server_reads_what_was_compared(path in paths()) {
        if let Ok(cleaned) = clean(&path, true)
            && cleaned.escapes == Escapes::default()
        {
            let form = cleaned.path.unwrap_or(path);
            let compared = cleaned.compared.unwrap_or_else(|| form.clone());
            for server in Server::all() {
                let read: Vec<_> = server.read(&form).iter().map(|name| strip(name)).filter(|name| !name.is_empty()).collect();
                let matched: Vec<_> = compared.split('/').map(|s| decode(s.as_bytes())).filter(|s| !s.is_empty()).collect();
                prop_assert_eq!(&read, &matched, "{:?} {}", server, form);
            }
        }
    }
}
