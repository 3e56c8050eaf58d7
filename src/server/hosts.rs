//! Which names a service answers to.
//!
//! A page may have its own name lead to the address that a service listens on (DNS rebinding), and is then of its
//! origin in a browser. No page chooses an address or a name without a domain as its own.

use std::net::{IpAddr, SocketAddr};

/// Ends of names that no page has.
const OWN: [&str; 3] = [".localhost", ".local", ".internal"];

/// The names that requests may call a service by.
#[derive(Debug)]
pub(super) struct Hosts {
    /// Whoever listens to other machines is meant to be called by any name.
    any: bool,
    named: Vec<String>,
}

impl Hosts {
    /// Those of a service that listens at `address` and is called by the names in `named`, too.
    pub(super) fn new(address: SocketAddr, named: &[String]) -> Self {
        let named = named.iter().map(|name| plain(name).to_ascii_lowercase());
        Self { any: !address.ip().is_loopback(), named: named.collect() }
    }

    /// Whether `host`, a name or an address with or without a port, is one of them.
    pub(super) fn have(&self, host: &str) -> bool {
        let name = plain(host).to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        self.any
            || !name.contains('.')
            || address.parse::<IpAddr>().is_ok()
            || OWN.iter().any(|end| name.ends_with(end))
            || self.named.contains(&name)
    }
}

/// A name without port and final dot.
pub(super) fn plain(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pages_are_told_from_own_ones() {
        let hosts = |address: &str| {
            let named = ["Shop.example:8080", "B.example."].map(String::from);
            Hosts::new(address.parse().unwrap(), &named)
        };
        let here = hosts("127.0.0.1:80");
        for own in [
            "localhost:8080",
            "localhost",
            "llmbs",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]:80",
            "10.0.0.7:1",
            "a.localhost:3",
            "box.LOCAL",
            "shop.example",
            "SHOP.example.:443",
            "b.example",
            "",
        ] {
            assert!(here.have(own), "{own}");
        }
        for other in [
            "evil.example",
            "evil.example:8080",
            "evil.example.",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
        ] {
            assert!(!here.have(other), "{other}");
            assert!(hosts("0.0.0.0:80").have(other), "{other}");
        }
        assert!(!hosts("[::1]:80").have("evil.example"));
    }
}
