//! What the operator sets and the rules read. Checked once, at start.

/// Settings of the control plane.
#[derive(Clone)]
pub struct Settings {
    /// Address of the portal as browsers see it, without a slash at the end: links in mail and return addresses are
    /// built from it, never from a request's Host.
    pub portal_url: String,
    /// Address of the gateway as developers see it, without a slash at the end.
    pub gateway_url: String,
    /// What keys begin with.
    pub key_prefix: String,
    /// Sender of mail, such as `Atlas <hello@atlas.example>`.
    pub mail_from: String,
    /// `smtp://user:password@host:port`; without it mail stays in the outbox.
    pub smtp_url: Option<Secret>,
    /// Secret that keys' MACs are made with, by its number; the highest number is used for new keys.
    pub peppers: Vec<(i16, Secret)>,
    /// What an open dispute does to access.
    pub dispute_policy: DisputePolicy,
    /// Shows the outbox of mails to anyone who can open the portal. Development only.
    pub development: bool,
}

/// What an open dispute of a payment does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DisputePolicy {
    /// Keys are refused until the bank has decided.
    #[default]
    Suspend,
    /// The provider is told, and nothing else happens.
    Flag,
}

impl Settings {
    /// The pepper that new keys get.
    pub fn newest_pepper(&self) -> Option<&(i16, Secret)> {
        self.peppers.iter().max_by_key(|(number, _)| *number)
    }
}

/// A secret that never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
    /// The secret itself; the caller answers for where it goes.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}
