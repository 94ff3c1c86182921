//! Who a visitor is, as far as limits are concerned.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Entries of `X-Forwarded-For` that are looked at, from the right. More hops than this are no
/// real network.
const MAX_HOPS: usize = 16;

/// A client: an IPv4 address, or the /64 network of an IPv6 address, which is what one subscriber
/// is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "IpAddr")]
pub struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self::of(address)
    }
}

impl Client {
    /// The client at this address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & (u128::MAX << 64);
                Ipv6Addr::from_bits(network).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

/// The visitor's address: the peer's own, unless the peer is a trusted proxy; then the rightmost
/// address in `X-Forwarded-For` that is not a trusted proxy's. What stands further left was
/// written by the visitor. `headers` are the values of all such headers, in order.
pub fn client_address<'a>(
    peer: IpAddr,
    headers: impl DoubleEndedIterator<Item = &'a str>,
    trusted: &[IpNet],
) -> IpAddr {
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let mut nearest = peer;
    let hops = headers.rev().flat_map(|header| header.rsplit(','));
    for hop in hops.take(MAX_HOPS) {
        let Some(address) = parse_hop(hop) else {
            // Whoever wrote garbage here is the last one known by a real address.
            return nearest;
        };
        nearest = address;
        if !is_trusted(address, trusted) {
            return address;
        }
    }
    nearest
}

/// Whether this is the address of a trusted proxy.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1` or `[2001:db8::1]:4711`.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let plain = text.trim_start_matches('[').trim_end_matches(']');
    plain.parse().ok().or_else(|| {
        let socket: std::net::SocketAddr = text.parse().ok()?;
        Some(socket.ip())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(peer: &str, headers: &[&str], trusted: &[&str]) -> String {
        let trusted: Vec<IpNet> = trusted.iter().map(|t| t.parse().unwrap()).collect();
        let headers = headers.iter().copied();
        client_address(peer.parse().unwrap(), headers, &trusted).to_string()
    }

    const PROXY: [&str; 2] = ["127.0.0.1/32", "10.0.0.0/8"];

    #[test]
    fn a_stranger_cannot_choose_its_address() {
        assert_eq!(address("192.0.2.9", &["1.2.3.4"], &PROXY), "192.0.2.9");
        assert_eq!(address("192.0.2.9", &["1.2.3.4"], &[]), "192.0.2.9");
    }

    #[test]
    fn a_proxy_is_believed_as_far_as_it_can_know() {
        assert_eq!(address("127.0.0.1", &["1.2.3.4"], &PROXY), "1.2.3.4");
        // The visitor sent "6.6.6.6", the proxy appended the truth.
        assert_eq!(
            address("127.0.0.1", &["6.6.6.6, 1.2.3.4"], &PROXY),
            "1.2.3.4"
        );
        assert_eq!(
            address("127.0.0.1", &["6.6.6.6", "1.2.3.4"], &PROXY),
            "1.2.3.4"
        );
        assert_eq!(
            address("127.0.0.1", &["1.2.3.4, 10.1.1.1"], &PROXY),
            "1.2.3.4"
        );
        assert_eq!(address("127.0.0.1", &["1.2.3.4:999"], &PROXY), "1.2.3.4");
        assert_eq!(
            address("127.0.0.1", &["[2001:db8::1]:9"], &PROXY),
            "2001:db8::1"
        );
        assert_eq!(address("::ffff:127.0.0.1", &["1.2.3.4"], &PROXY), "1.2.3.4");
    }

    #[test]
    fn garbage_falls_back_to_the_last_known_hop() {
        assert_eq!(address("127.0.0.1", &["x, 10.1.1.1"], &PROXY), "10.1.1.1");
        assert_eq!(address("127.0.0.1", &[""], &PROXY), "127.0.0.1");
        assert_eq!(address("127.0.0.1", &[], &PROXY), "127.0.0.1");
    }

    #[test]
    fn an_ipv6_subscriber_is_one_client() {
        let client = |text: &str| Client::of(text.parse().unwrap());
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_eq!(client("2001:db8::1").to_string(), "2001:db8::/64");
    }

    proptest! {
        #[test]
        fn no_header_panics(header in "\\PC{0,80}") {
            let _ = address("127.0.0.1", &[&header], &PROXY);
        }
    }
}
