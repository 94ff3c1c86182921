//! Random identities and tokens. A token is kept only as its hash.

use std::fmt::Write;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// `N` random bytes of the operating system as hexadecimal digits.
pub fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    hex(&bytes)
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A token in the clear: 64 hexadecimal digits, 256 random bits. Shown once to its holder; never
/// logged, so it has no `Display` and its `Debug` is silent.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A new token.
    pub fn random() -> Self {
        Self(random_hex::<32>())
    }

    /// The token in the clear, for its holder.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What is kept of a token. A plain hash suffices for 256 random bits: there is nothing to guess.
/// Kept elsewhere as 64 hexadecimal digits.
#[derive(Clone)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of what somebody presents.
    pub fn of(presented: &str) -> Self {
        Self(Sha256::digest(presented.as_bytes()).into())
    }

    /// Whether `presented` is the token, in constant time.
    pub fn matches(&self, presented: &str) -> bool {
        self.is(&Self::of(presented))
    }

    /// Whether both are of one token, in constant time.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
        let mut hash = [0; 32];
        if text.len() != 2 * hash.len() || !digits {
            return Err(D::Error::custom("a token's hash has 64 hexadecimal digits"));
        }
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = str::from_utf8(pair).map_err(D::Error::custom)?;
            *byte = u8::from_str_radix(pair, 16).map_err(D::Error::custom)?;
        }
        Ok(Self(hash))
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_matches() {
        let token = Token::random();
        assert_eq!(token.reveal().len(), 64);
        let hash = token.hash();
        assert!(hash.matches(token.reveal()));
        assert!(!hash.matches(Token::random().reveal()));
        assert!(!hash.matches(""));
        assert!(!hash.matches(&token.reveal()[..63]));
    }

    #[test]
    fn a_hash_comes_back_from_where_it_was_kept() {
        let token = Token::random();
        let kept = serde_json::to_string(&token.hash()).unwrap();
        assert!(!kept.contains(token.reveal()));
        let hash: TokenHash = serde_json::from_str(&kept).unwrap();
        assert!(hash.matches(token.reveal()));
        for wrong in ["\"\"", "\"00\"", "7"]
            .map(str::to_owned)
            .into_iter()
            .chain([
                format!("\"{}\"", "g".repeat(64)),
                format!("\"{}\"", "é".repeat(32)),
                format!("\"+{}\"", "0".repeat(63)),
            ])
        {
            assert!(
                serde_json::from_str::<TokenHash>(&wrong).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn no_secret_in_debug_output() {
        let token = Token::random();
        assert!(!format!("{token:?}{:?}", token.hash()).contains(&token.reveal()[..8]));
    }
}
