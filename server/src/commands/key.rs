//! `turnpike key`.

use super::Context;
use crate::output::{self, Failure};
use clap::Subcommand;
use domain::keys::NewKey;
use model::access::Environment;
use model::{ConsumerId, KeyId};

/// Keys.
#[derive(Subcommand)]
pub(crate) enum Key {
    /// Make keys. A key is printed once and never again.
    Create {
        /// Whose (con_...).
        #[arg(long)]
        consumer: ConsumerId,
        /// A name to know it by.
        #[arg(long, default_value = "console")]
        name: String,
        /// live or test.
        #[arg(long, default_value = "live")]
        environment: Environment,
        /// How many, a line each.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
    },
    /// End a key now.
    Revoke {
        /// Which (key_...).
        id: KeyId,
    },
}

/// Runs it.
pub(crate) async fn run(context: &Context, key: Key) -> Result<(), Failure> {
    let provider = domain::Provider::console();
    match key {
        Key::Create {
            consumer,
            name,
            environment,
            count,
        } => {
            domain::provision::find_consumer(&context.domain, &provider, consumer)
                .await
                .map_err(|e| output::missing(e, "consumer", &consumer))?;
            let manager = provider.key_manager(consumer);
            let new = NewKey {
                name,
                environment,
                expires_at: None,
                routes: None,
            };
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            domain::keys::create_many(&context.domain, &manager, new, count, |made| {
                let key = made.plain.reveal();
                output::result(context.json, &serde_json::json!({ "key_id": made.id, "key": key }), key);
            })
            .await?;
        }
        Key::Revoke { id } => {
            let consumer = domain::provision::key_owner(&context.domain, &provider, id)
                .await
                .map_err(|e| output::missing(e, "key", &id))?;
            domain::keys::revoke(&context.domain, &provider.key_manager(consumer), id).await?;
            output::result(
                context.json,
                &serde_json::json!({ "key_id": id, "revoked": true }),
                &format!("{id} is revoked"),
            );
        }
    }
    Ok(())
}
