//! Who acts, and proofs of what they may do. A rule that changes keys takes a [`KeyManager`]: without one in hand it
//! cannot be called, and the proof carries the consumer whose rows it reaches.

use model::access::Role;
use model::{ConsumerId, MemberId};

/// Who performs an action; goes into the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A person.
    Member(MemberId),
    /// The command line on the provider's own machine.
    Console,
    /// Turnpike itself: a job or a webhook.
    System(&'static str),
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Actor::Member(id) => id.fmt(f),
            Actor::Console => f.write_str("console"),
            Actor::System(what) => write!(f, "system:{what}"),
        }
    }
}

/// May see a consumer's account.
#[derive(Clone, Debug)]
pub struct Viewer {
    actor: Actor,
    consumer: ConsumerId,
}

/// May create, rotate and revoke a consumer's keys.
#[derive(Clone, Debug)]
pub struct KeyManager(Viewer);

/// May change a consumer's plan, card and spend cap.
#[derive(Clone, Debug)]
pub struct BillingManager(Viewer);

/// One of the provider's own people, or the console of the provider's machine.
#[derive(Clone, Debug)]
pub struct Provider {
    actor: Actor,
}

impl Viewer {
    /// For a member of the consumer. Only the session and the membership row make one.
    pub(crate) fn member(member: MemberId, consumer: ConsumerId) -> Self {
        Self {
            actor: Actor::Member(member),
            consumer,
        }
    }
    /// The consumer whose rows may be seen.
    pub fn consumer(&self) -> ConsumerId {
        self.consumer
    }
    /// Who acts.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }
    /// The right to manage keys, when the role has it.
    pub fn key_manager(&self, role: Role) -> Option<KeyManager> {
        role.manages_keys().then(|| KeyManager(self.clone()))
    }
    /// The right to manage billing, when the role has it.
    pub fn billing_manager(&self, role: Role) -> Option<BillingManager> {
        role.manages_billing().then(|| BillingManager(self.clone()))
    }
}

impl std::ops::Deref for KeyManager {
    type Target = Viewer;
    fn deref(&self) -> &Viewer {
        &self.0
    }
}

impl std::ops::Deref for BillingManager {
    type Target = Viewer;
    fn deref(&self) -> &Viewer {
        &self.0
    }
}

impl Provider {
    /// For a member with the provider's admin mark. Only the session makes one.
    pub(crate) fn admin(member: MemberId) -> Self {
        Self {
            actor: Actor::Member(member),
        }
    }
    /// For the command line: whoever can run the program with its database is the provider.
    pub fn console() -> Self {
        Self { actor: Actor::Console }
    }
    /// Who acts.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }
    /// The provider may see any consumer's account.
    pub fn viewer(&self, consumer: ConsumerId) -> Viewer {
        Viewer {
            actor: self.actor.clone(),
            consumer,
        }
    }
    /// The provider may manage any consumer's keys.
    pub fn key_manager(&self, consumer: ConsumerId) -> KeyManager {
        KeyManager(self.viewer(consumer))
    }
}
