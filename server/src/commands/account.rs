//! `turnpike admin` and `turnpike consumer`.

use super::Context;
use crate::output::{self, Failure};
use clap::Subcommand;
use domain::Provider;
use domain::provision::Start;
use domain::settings::Secret;
use model::access::Interval;
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
    let (id, external_id) = match consumer {
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
            (id, external_id.map(Some))
        }
        Consumer::SetExternalId { consumer, external_id } => (consumer, Some(external_id)),
    };
    if let Some(name) = external_id {
        domain::consumers::set_external_id(&context.domain, &provider, id, name.as_deref()).await?;
    }
    output::result(context.json, &serde_json::json!({ "consumer_id": id }), &id.to_string());
    Ok(())
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
