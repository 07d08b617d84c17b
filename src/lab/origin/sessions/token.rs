//! Sessions that the client carries: a JSON Web Token, signed by whoever logs in and checked by every server.
//!
//! A server keeps nothing, so there is nothing to lose, to send or to look up; and nothing to take away either.
//! A token says who its user is. It holds no session's content: a cookie has room for 4 KiB.

use std::time::Duration;

use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation, crypto, decode, encode};
use serde::{Deserialize, Serialize};

use super::Broken;
use super::record::{now, random_id};

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    /// What tells two tokens of the same user and second apart.
    jti: String,
    /// Whole seconds, as the standard has them; rounded down, so that it is never good for longer than was meant.
    exp: u64,
}

/// The key that all servers share, ready for use.
pub(super) struct Token {
    sign: EncodingKey,
    check: DecodingKey,
    rules: Validation,
}

impl Token {
    pub(super) fn new(key: &[u8]) -> Self {
        // The other one that this crate knows would do the same; this is the one that is built in. It may have been
        // chosen already.
        let _ = crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        // Over in the second that it names (RFC 7519, section 4.1.4), not a minute later.
        let rules = Validation { leeway: 0, reject_tokens_expiring_in_less_than: 1, ..Validation::default() };
        Self { sign: EncodingKey::from_secret(key), check: DecodingKey::from_secret(key), rules }
    }

    pub(super) fn start(&self, user: &str, life: Duration) -> Result<String, Broken> {
        let exp = now().saturating_add(life.as_millis() as u64) / 1000;
        let claims = Claims { sub: user.to_owned(), jti: random_id()?, exp };
        encode(&Header::default(), &claims, &self.sign).map_err(|error| Broken(error.to_string()))
    }

    /// Whether it is a token of this key that has not expired.
    pub(super) fn is_good(&self, token: &str) -> bool {
        decode::<Claims>(token, &self.check, &self.rules).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_key_and_time_and_unchanged() {
        let token = Token::new(b"one key");
        let good = token.start("anna", Duration::from_secs(60)).unwrap();
        assert_ne!(good, token.start("anna", Duration::from_secs(60)).unwrap());
        assert!(token.is_good(&good) && !Token::new(b"another").is_good(&good));
        assert!(!token.is_good("") && !token.is_good("a.b.c"));
        let [head, claims, mark] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
        let changed = claims.chars().rev().collect::<String>();
        assert!(!token.is_good(&format!("{head}.{changed}.{mark}")));
        assert!(!token.is_good(&token.start("anna", Duration::ZERO).unwrap()), "over when it began");
        // {"alg":"none"}
        assert!(!token.is_good(&format!("eyJhbGciOiJub25lIn0.{claims}.")));
    }
}
