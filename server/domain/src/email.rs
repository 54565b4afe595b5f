//! E-mail addresses: which spellings are accepted, and what two spellings of one address have in common.

use crate::{DomainError, Result};

/// Longest address that a mail server takes, in bytes (RFC 5321).
const MAX_LEN: usize = 254;
/// Longest part before the `@`, in bytes.
const MAX_LOCAL_LEN: usize = 64;
/// Longest part of a domain between two dots, in bytes.
const MAX_LABEL_LEN: usize = 63;
/// What is said of an address that cannot be one.
const PROBLEM: &str = "Enter an e-mail address such as name@example.com, in plain letters without accents.";

/// An address that mail can be sent to.
///
/// Only ASCII: an address in another script has look-alikes that a person cannot tell apart, and a domain in another
/// script has an ASCII form (`xn--...`) that is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Email {
    address: String,
    key: String,
}

impl Email {
    /// Reads what a person typed: space around it, the domain's case and a dot at its end do not matter.
    ///
    /// # Errors
    /// `Invalid` for the field `email`.
    pub fn parse(text: &str) -> Result<Self> {
        Self::accept(text).ok_or_else(|| DomainError::invalid("email", PROBLEM))
    }

    fn accept(text: &str) -> Option<Self> {
        // Spaces only: a line break is never a slip of the finger, it is an attempt to add a header.
        let text = text.trim_matches(' ');
        let (local, domain) = text.split_once('@')?;
        let domain = domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
        let local_fits = (1..=MAX_LOCAL_LEN).contains(&local.len())
            && local
                .split('.')
                .all(|atom| !atom.is_empty() && atom.bytes().all(is_atom));
        let domain_fits = domain.contains('.')
            && domain.split('.').all(is_label)
            // An address of digits alone at the end is an IP address, not a name.
            && domain.rsplit('.').next().is_some_and(|top| top.bytes().any(|b| b.is_ascii_alphabetic()));
        let address = format!("{local}@{domain}");
        (local_fits && domain_fits && address.len() <= MAX_LEN).then(|| Self {
            key: address.to_ascii_lowercase(),
            address,
        })
    }

    /// Where mail goes.
    pub fn address(&self) -> &str {
        &self.address
    }
    /// The same for every accepted spelling of one address; unique among members.
    pub fn key(&self) -> &str {
        &self.key
    }
}

fn is_atom(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-".contains(&b)
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_LEN).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_one_plain_address() {
        for text in [
            "",
            "mara",
            "@lumen.dev",
            "mara@",
            "mara@lumen",
            "mara@@lumen.dev",
            "mara@lumen..dev",
            "mara@lumen.dev..",
            ".mara@lumen.dev",
            "ma..ra@lumen.dev",
            "mara@-lumen.dev",
            "mara@127.0.0.1",
            "mara@[127.0.0.1]",
            "mara lumen@lumen.dev",
            "mara@lumen.dev\r\nBcc: all@lumen.dev",
            "mara@lumen.dev\n",
            "mara\0@lumen.dev",
            "m\u{e4}ra@lumen.dev",
            "mara@l\u{fc}men.dev",
            "mara\u{ff20}lumen.dev",
            "mar\u{430}@lumen.dev",
            "Mara <mara@lumen.dev>",
            "mara@lumen.dev, eve@lumen.dev",
        ] {
            assert!(Email::parse(text).is_err(), "{text:?}");
        }
        assert!(Email::parse(&format!("{}@lumen.dev", "a".repeat(65))).is_err());
        assert!(Email::parse(&format!("mara@{}dev", "a1234567.".repeat(30))).is_err());
    }

    #[test]
    fn keeps_the_local_part_as_it_was_typed() {
        let email = Email::parse("  Mara.L+api@Lumen.DEV. ").unwrap();
        assert_eq!(email.address(), "Mara.L+api@lumen.dev");
        assert_eq!(email.key(), "mara.l+api@lumen.dev");
    }
}
