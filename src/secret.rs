//! Random identities and tokens. A token is kept only as its hash.

use std::fmt::Write;

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

/// What is kept of a token. A plain hash suffices for 256 random bits: there is nothing to guess.
#[derive(Clone)]
pub struct TokenHash([u8; 32]);

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
    fn no_secret_in_debug_output() {
        let token = Token::random();
        assert!(!format!("{token:?}{:?}", token.hash()).contains(&token.reveal()[..8]));
    }
}
