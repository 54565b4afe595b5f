//! `turnpike admin` and `turnpike consumer`.

use super::Context;
use crate::output::{self, Failure};
use clap::Subcommand;
use domain::provision::Start;
use domain::settings::Secret;
use domain::{Provider, features};
use model::access::Interval;
use model::{ConsumerId, Time};
use std::io::Read as _;

/// Longest password read from standard input, in bytes.
const MAX_PASSWORD_BYTES: u64 = 4_096;

/// The provider's people.
#[derive(Subcommand)]
pub(crate) enum Admin {
    /// Make an admin, or make an existing member one.
    Create {
        /// Address to log in with.
        #[arg(long)]
        email: String,
        /// The password; better given on standard input with --password-stdin, where no process list shows it.
        #[arg(
            long,
            env = "TURNPIKE_ADMIN_PASSWORD",
            hide_env_values = true,
            required_unless_present = "password_stdin"
        )]
        password: Option<String>,
        /// Read the password from standard input.
        #[arg(long, conflicts_with = "password")]
        password_stdin: bool,
    },
}

/// Accounts that subscribe and hold keys.
#[derive(Subcommand)]
pub(crate) enum Consumer {
    /// Make a consumer without a member, on a plan.
    Create {
        /// Where bills and notices go.
        #[arg(long)]
        email: String,
        /// Slug of the plan.
        #[arg(long)]
        plan: String,
        /// Name of the account; by default the address.
        #[arg(long)]
        name: Option<String>,
        /// month or year.
        #[arg(long, default_value = "month")]
        interval: Interval,
        /// Give a paid plan away: metered, never billed.
        #[arg(long)]
        complimentary: bool,
        /// The name that your own systems give it; tokens of issuers may call it so.
        #[arg(long)]
        external_id: Option<String>,
    },
    /// Give a consumer the name that your own systems call it by, or take it back.
    SetExternalId {
        /// Id of the consumer.
        #[arg(long)]
        consumer: model::ConsumerId,
        /// The name; without it the consumer has none.
        #[arg(long)]
        external_id: Option<String>,
    },
    /// Give a consumer a feature, whatever its plan.
    Grant {
        /// The consumer: con_...
        consumer: ConsumerId,
        /// Slug of the feature.
        #[arg(long)]
        feature: String,
        /// Its last day (2026-12-24, in UTC), or the instant it ends (RFC 3339); by default it has no end.
        #[arg(long, value_parser = end)]
        until: Option<Time>,
    },
    /// Take a granted feature back.
    Withdraw {
        /// The consumer: con_...
        consumer: ConsumerId,
        /// Slug of the feature.
        #[arg(long)]
        feature: String,
    },
}

/// Runs `admin`.
pub(crate) async fn admin(context: &Context, admin: Admin) -> Result<(), Failure> {
    let Admin::Create {
        email,
        password,
        password_stdin,
    } = admin;
    let password = if password_stdin {
        read_password()?
    } else {
        password.unwrap_or_default()
    };
    let password = Secret::new(password);
    let id = domain::bootstrap::create_admin(&context.domain, &Provider::console(), &email, &password).await?;
    output::result(
        context.json,
        &serde_json::json!({ "member_id": id, "email": email }),
        &format!("{email} is an admin"),
    );
    Ok(())
}

fn read_password() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().take(MAX_PASSWORD_BYTES).read_to_string(&mut text);
    read.map_err(|e| Failure(format!("cannot read the password: {e}")))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Runs `consumer`.
pub(crate) async fn consumer(context: &Context, consumer: Consumer) -> Result<(), Failure> {
    let provider = Provider::console();
    match consumer {
        Consumer::Create {
            email,
            plan,
            name,
            interval,
            complimentary,
            external_id,
        } => {
            let name = name.unwrap_or_else(|| email.clone());
            let id = create(context, &email, &name, &plan, interval, complimentary).await?;
            if let Some(external_id) = external_id {
                domain::consumers::set_external_id(&context.domain, &provider, id, Some(&external_id)).await?;
            }
            output::result(context.json, &serde_json::json!({ "consumer_id": id }), &id.to_string());
        }
        Consumer::SetExternalId { consumer, external_id } => {
            domain::consumers::set_external_id(&context.domain, &provider, consumer, external_id.as_deref()).await?;
            output::result(
                context.json,
                &serde_json::json!({ "consumer_id": consumer }),
                &consumer.to_string(),
            );
        }
        Consumer::Grant {
            consumer,
            feature,
            until,
        } => {
            features::grant(&context.domain, &provider, consumer, &feature, until).await?;
            let end = until.map_or_else(
                || "without an end".to_owned(),
                |until| format!("until {}", until.minute()),
            );
            output::result(
                context.json,
                &serde_json::json!({ "consumer_id": consumer, "feature": feature, "until": until }),
                &format!("{consumer} has {feature} {end}"),
            );
        }
        Consumer::Withdraw { consumer, feature } => {
            features::withdraw(&context.domain, &provider, consumer, &feature).await?;
            output::result(
                context.json,
                &serde_json::json!({ "consumer_id": consumer, "feature": feature }),
                &format!("{feature} is taken back from {consumer}"),
            );
        }
    }
    Ok(())
}

/// An end as people write one.
pub(super) fn end(text: &str) -> Result<Time, String> {
    Time::parse_end(text).ok_or_else(|| "a day (2026-12-24) or an instant (2026-12-24T18:00:00Z) is wanted".to_owned())
}

/// Makes a consumer on a plan: the free one, or any as a gift.
pub(crate) async fn create(
    context: &Context,
    email: &str,
    name: &str,
    plan: &str,
    interval: Interval,
    complimentary: bool,
) -> Result<model::ConsumerId, Failure> {
    let start = if complimentary {
        Start::Gift(plan, interval)
    } else {
        Start::Free(plan)
    };
    Ok(domain::provision::consumer(&context.domain, &Provider::console(), email, name, start).await?)
}
