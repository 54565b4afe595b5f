//! Who a session belongs to and what that person may do: the one place where proofs of rights are made for people.

use crate::{BillingManager, Domain, KeyManager, Provider, Result, Viewer};
use model::access::Role;
use model::{ConsumerId, MemberId};

/// A person whose session was checked in this request.
#[derive(Clone, Debug)]
pub struct Identity {
    member: MemberId,
    email: String,
    verified: bool,
    provider_admin: bool,
    membership: Option<Membership>,
}

/// The consumer that a person acts for.
#[derive(Clone, Debug)]
pub struct Membership {
    consumer: ConsumerId,
    name: String,
    role: Role,
    suspended_reason: Option<String>,
}

/// Reads the member and the consumer of the oldest membership. Nothing for a member who is gone or disabled.
///
/// # Errors
/// When the database fails.
pub async fn of_member(domain: &Domain, member: MemberId) -> Result<Option<Identity>> {
    let row = sqlx::query!(
        r#"SELECT m.email, m.verified_at IS NOT NULL AS "verified!", m.provider_admin,
                  c.id AS "consumer?: ConsumerId", c.name AS "name?", s.role AS "role?: Role",
                  CASE WHEN c.suspended_at IS NOT NULL THEN coalesce(c.suspended_reason, '') END AS suspended_reason
           FROM members m
           LEFT JOIN LATERAL (SELECT consumer_id, role FROM memberships WHERE member_id = m.id
                              ORDER BY created_at, consumer_id LIMIT 1) s ON true
           LEFT JOIN consumers c ON c.id = s.consumer_id
           WHERE m.id = $1 AND m.disabled_at IS NULL"#,
        member as MemberId,
    )
    .fetch_optional(&domain.pool)
    .await?;
    Ok(row.map(|row| Identity {
        member,
        email: row.email,
        verified: row.verified,
        provider_admin: row.provider_admin,
        membership: match (row.consumer, row.name, row.role) {
            (Some(consumer), Some(name), Some(role)) => Some(Membership {
                consumer,
                name,
                role,
                suspended_reason: row.suspended_reason,
            }),
            _ => None,
        },
    }))
}

impl Identity {
    /// The person.
    pub fn member(&self) -> MemberId {
        self.member
    }
    /// The address as it was typed at sign-up.
    pub fn email(&self) -> &str {
        &self.email
    }
    /// Whether the address was confirmed. Without that there are no rights at all.
    pub fn verified(&self) -> bool {
        self.verified
    }
    /// The consumer acted for; none for the provider's people who have no account of their own.
    pub fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }
    /// The right to see the consumer's account.
    pub fn viewer(&self) -> Option<Viewer> {
        let membership = self.membership.as_ref().filter(|_| self.verified)?;
        Some(Viewer::member(self.member, membership.consumer))
    }
    /// The right to manage the consumer's keys.
    pub fn key_manager(&self) -> Option<KeyManager> {
        self.viewer()?.key_manager(self.membership.as_ref()?.role)
    }
    /// The right to manage the consumer's plan and money.
    pub fn billing_manager(&self) -> Option<BillingManager> {
        self.viewer()?.billing_manager(self.membership.as_ref()?.role)
    }
    /// The right to act for the provider.
    pub fn provider(&self) -> Option<Provider> {
        (self.verified && self.provider_admin).then(|| Provider::admin(self.member))
    }
}

impl Membership {
    /// The consumer.
    pub fn consumer(&self) -> ConsumerId {
        self.consumer
    }
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The person's role in it.
    pub fn role(&self) -> Role {
        self.role
    }
    /// Why the provider suspended it; empty when no reason was given, none when it is not suspended.
    pub fn suspended_reason(&self) -> Option<&str> {
        self.suspended_reason.as_deref()
    }
}
