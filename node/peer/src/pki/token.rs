//! The join token: what a new node needs to find its cluster and to be let in, once.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
};

use super::{Fingerprint, PkiError};

/// API addresses in one token at most.
pub const JOIN_ADDRESSES_MAX: usize = 8;

/// Written `sf1.` and base64url (RFC 4648 section 5, no padding) of: secret (16 bytes), the
/// authority's fingerprint (32), number of addresses (1), then each address as family (4 or 6),
/// address (4 or 16) and port (2), integers big-endian; at the end the first 4 bytes of the SHA-256
/// of all that, so that a token with a wrong character is not taken for another one.
///
/// The secret lets one node in; the fingerprint tells the node whom it may trust. The token is
/// shown once and stands nowhere: the cluster keeps [`token_hash`] of the secret.
#[derive(Clone, Eq, PartialEq)]
pub struct Token {
    /// Lets one node in.
    pub secret: [u8; 16],
    /// The authority that the cluster must show.
    pub ca: Fingerprint,
    /// Where the API listens: one address at least.
    pub api: Vec<SocketAddr>,
}

const PREFIX: &str = "sf1.";
/// Longest text of a valid token, generously.
const TOKEN_CHARS_MAX: usize = 512;

/// Not a join token.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// Another kind of text.
    #[error("a join token starts with `sf1.`: copy the whole line as it was printed")]
    NotAToken,
    /// A later version's token.
    #[error("this token is of a newer version than this program understands: upgrade this node")]
    Newer,
    /// Longer than any token.
    #[error("longer than any join token: copy the token alone")]
    TooLong,
    /// Damaged in copying.
    #[error("the token is damaged ({0}): copy it again")]
    Damaged(&'static str),
    /// Made with no address, or too many.
    #[error("a token carries 1 to {JOIN_ADDRESSES_MAX} addresses of the API, not {0}")]
    Addresses(usize),
}

impl Token {
    /// A new token with a random secret.
    pub fn generate(ca: Fingerprint, api: Vec<SocketAddr>) -> Result<Self, PkiError> {
        let mut secret = [0; 16];
        SystemRandom::new()
            .fill(&mut secret)
            .map_err(|_| PkiError::Crypto("no random numbers".into()))?;
        Ok(Self { secret, ca, api })
    }

    /// The token as text. Not a `Display`, so that it does not get into a log by chance.
    pub fn encode(&self) -> Result<String, TokenError> {
        if self.api.is_empty() || self.api.len() > JOIN_ADDRESSES_MAX {
            return Err(TokenError::Addresses(self.api.len()));
        }
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(self.secret);
        bytes.extend(self.ca.0);
        bytes.push(self.api.len() as u8);
        for addr in &self.api {
            match addr.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend(ip.octets());
                }
            }
            bytes.extend(addr.port().to_be_bytes());
        }
        bytes.extend(checksum(&bytes));
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// What the cluster keeps of this token.
    pub fn hash(&self) -> String {
        token_hash(&self.secret)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > TOKEN_CHARS_MAX {
            return Err(TokenError::TooLong);
        }
        let Some(body) = text.strip_prefix(PREFIX) else {
            let later = text.strip_prefix("sf").and_then(|rest| rest.split_once('.'));
            let newer = later.is_some_and(|(n, _)| n.parse::<u32>().is_ok_and(|n| n > 1));
            return Err(if newer { TokenError::Newer } else { TokenError::NotAToken });
        };
        let bytes =
            URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged("not base64url"))?;
        let (body, sum) = bytes.split_last_chunk().ok_or(TokenError::Damaged("too short"))?;
        if *sum != checksum(body) {
            return Err(TokenError::Damaged("a character is wrong or missing"));
        }
        let mut input = Input(body);
        let token =
            Self { secret: input.take()?, ca: Fingerprint(input.take()?), api: input.addresses()? };
        if input.0.is_empty() { Ok(token) } else { Err(TokenError::Damaged("too long")) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("ca", &self.ca)
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

/// What the cluster keeps of a secret: SHA-256 in hexadecimal. The secret is random and long, so
/// that no slow hash is needed.
pub fn token_hash(secret: &[u8; 16]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"steadfast join token\0");
    context.update(secret);
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = digest::digest(&digest::SHA256, bytes);
    std::array::from_fn(|i| digest.as_ref()[i])
}

const CHECKSUM_BYTES: usize = 4;

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(TokenError::Damaged("too short"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn addresses(&mut self) -> Result<Vec<SocketAddr>, TokenError> {
        let [count] = self.take()?;
        let count = usize::from(count);
        if count == 0 || count > JOIN_ADDRESSES_MAX {
            return Err(TokenError::Addresses(count));
        }
        (0..count).map(|_| self.address()).collect()
    }

    fn address(&mut self) -> Result<SocketAddr, TokenError> {
        let ip = match self.take()? {
            [4] => IpAddr::from(self.take::<4>()?),
            [6] => IpAddr::from(self.take::<16>()?),
            _ => return Err(TokenError::Damaged("an address of an unknown family")),
        };
        Ok(SocketAddr::new(ip, u16::from_be_bytes(self.take()?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> impl Strategy<Value = Token> {
        let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
        let v6 = any::<[u8; 16]>().prop_map(IpAddr::from);
        let addr = (prop_oneof![v4, v6], any::<u16>()).prop_map(SocketAddr::from);
        let api = proptest::collection::vec(addr, 1..=JOIN_ADDRESSES_MAX);
        (any::<[u8; 16]>(), any::<[u8; 32]>(), api).prop_map(|(secret, ca, api)| Token {
            secret,
            ca: Fingerprint(ca),
            api,
        })
    }

    // A failing case is printed with its seed and kept in `proptest-regressions/`, where every
    // later run starts with it.
    proptest! {
        #[test]
        fn text_and_back(token in token()) {
            let text = token.encode().unwrap();
            prop_assert!(text.len() <= TOKEN_CHARS_MAX);
            prop_assert_eq!(&text.parse::<Token>().unwrap(), &token);
            prop_assert_eq!(format!("  {text}\n").parse::<Token>().unwrap(), token);
        }

        #[test]
        fn garbage_is_refused_or_means_what_it_says(bytes in prop::collection::vec(any::<u8>(), 0..250)) {
            let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes));
            // One spelling per token: what parses is what would be written.
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.encode().unwrap(), text);
            }
        }

        #[test]
        fn a_token_with_a_wrong_character_is_refused(token in token(), at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_-]") {
            let text = token.encode().unwrap();
            let at = PREFIX.len() + at.index(text.len() - PREFIX.len());
            let mut wrong = text.clone();
            wrong.replace_range(at..=at, &to);
            prop_assert_eq!(wrong.parse::<Token>().is_ok(), wrong == text);
        }

        #[test]
        fn any_text_is_survived(text in "\\PC*") {
            prop_assert!(text.parse::<Token>().is_err());
        }

        #[test]
        fn a_shortened_or_lengthened_token_is_refused(token in token(), cut in 1usize..40) {
            let text = token.encode().unwrap();
            let shorter = &text[..text.len() - cut.min(text.len() - 4)];
            prop_assert!(shorter.parse::<Token>().is_err());
            let longer = format!("{text}{}", "A".repeat(cut));
            prop_assert!(longer.parse::<Token>().is_err());
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let error = |text: &str| text.parse::<Token>().unwrap_err();
        assert_eq!(error(""), TokenError::NotAToken);
        assert_eq!(error("hello"), TokenError::NotAToken);
        assert_eq!(error("sf1"), TokenError::NotAToken);
        assert_eq!(error("sf2.AAAA"), TokenError::Newer);
        assert_eq!(error("sf1."), TokenError::Damaged("too short"));
        assert_eq!(error("sf1.AA=="), TokenError::Damaged("not base64url"));
        assert_eq!(error(&format!("sf1.{}", "A".repeat(600))), TokenError::TooLong);
        let body = |tail: &[u8]| {
            let mut bytes = vec![7; 48];
            bytes.extend(tail);
            bytes.extend(checksum(&bytes));
            format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
        };
        assert_eq!(error(&body(&[])), TokenError::Damaged("too short"));
        assert_eq!(error(&body(&[0])), TokenError::Addresses(0));
        assert_eq!(error(&body(&[9])), TokenError::Addresses(9));
        let family = TokenError::Damaged("an address of an unknown family");
        assert_eq!(error(&body(&[1, 5, 0, 0, 0, 0, 0, 0])), family);
        assert!(body(&[1, 4, 192, 0, 2, 1, 0x1b, 0x58]).parse::<Token>().is_ok());
        let long = TokenError::Damaged("too long");
        assert_eq!(error(&body(&[1, 4, 192, 0, 2, 1, 0x1b, 0x58, 0])), long);
    }

    #[test]
    fn the_secret_is_in_no_debug_output_and_hashes_differ() {
        let api = vec![SocketAddr::from(([192, 0, 2, 1], 7000))];
        let one = Token::generate(Fingerprint([1; 32]), api.clone()).unwrap();
        let other = Token::generate(Fingerprint([1; 32]), api).unwrap();
        assert_ne!(one.secret, other.secret);
        assert_ne!(one.hash(), other.hash());
        assert_eq!(one.hash(), token_hash(&one.secret));
        let debug = format!("{one:?}");
        assert!(!debug.contains("secret"), "{debug}");
        let none = Token { api: vec![], ..one };
        assert_eq!(none.encode(), Err(TokenError::Addresses(0)));
    }
}
