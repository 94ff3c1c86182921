//! Random identities and tokens. A token is kept only as its hash.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// `N` random bytes of the operating system as hexadecimal digits.
pub fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    hex(&bytes)
}

fn hex(bytes: &[u8]) -> String {
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
        TokenHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What is kept of a token, as 64 hexadecimal digits in a note. A plain hash suffices for 256 random
/// bits: there is nothing to guess.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TokenHash([u8; 32]);

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        hex(&hash.0)
    }
}

impl TryFrom<String> for TokenHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.as_bytes().chunks_exact(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        });
        let bytes: Option<Vec<u8>> = digits.collect();
        let bytes = bytes
            .filter(|_| text.len() == 64)
            .and_then(|b| b.try_into().ok());
        bytes
            .map(Self)
            .ok_or("a token's hash is 64 hexadecimal digits")
    }
}

impl TokenHash {
    /// Whether `presented` is the token, in constant time.
    pub fn matches(&self, presented: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        self.0.ct_eq(&presented).into()
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
    fn a_hash_survives_a_note() {
        let token = Token::random();
        let note = serde_json::to_string(&token.hash()).unwrap();
        let hash: TokenHash = serde_json::from_str(&note).unwrap();
        assert!(hash.matches(token.reveal()));
        for wrong in ["\"\"", "\"ab\"", &note.replace('"', "\"é"), "1"] {
            assert!(serde_json::from_str::<TokenHash>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_secret_in_debug_output() {
        let token = Token::random();
        assert!(!format!("{token:?}{:?}", token.hash()).contains(&token.reveal()[..8]));
    }
}
