//! Accounts: people, their way in, their sessions, and the consumers they belong to.

mod bootstrap;
mod consumers;
mod login;
mod reset;
mod sessions;
mod signup;
mod smtp;

use crate::world::World;
use domain::DomainError;
use domain::links::Token;
use domain::members::{self, SignUp, SignedUp};
use domain::settings::Secret;
use model::MemberId;

/// Good enough for everybody here.
const PASSWORD: &str = "three green kites";

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

fn request(email: &str) -> SignUp {
    SignUp {
        email: email.to_owned(),
        password: secret(PASSWORD),
    }
}

/// Runs the jobs of accounts that are due.
async fn work(world: &World) {
    members::register(domain::jobs::Registry::default())
        .run_due(&world.domain)
        .await
        .unwrap();
}

/// Somebody who signed up and has not confirmed the address.
async fn newcomer(world: &World, email: &str) -> MemberId {
    match members::sign_up(&world.domain, None, request(email)).await.unwrap() {
        SignedUp::Member(member) => member,
        SignedUp::Known(_) => panic!("{email} has an account already"),
    }
}

/// Somebody who signed up and confirmed the address.
async fn member(world: &World, email: &str) -> MemberId {
    let member = newcomer(world, email).await;
    let token = last_token(world, email).await;
    members::verify(&world.domain, member, &token).await.unwrap();
    member
}

/// Subjects of the mails to an address, the oldest first.
async fn subjects(world: &World, recipient: &str) -> Vec<String> {
    sqlx::query_scalar("SELECT subject FROM mails WHERE recipient = $1 ORDER BY id")
        .bind(recipient)
        .fetch_all(world.database.pool())
        .await
        .unwrap()
}

/// What the link in the last mail to an address ends with.
async fn last_token(world: &World, recipient: &str) -> Token {
    let text: String = sqlx::query_scalar("SELECT body_text FROM mails WHERE recipient = $1 ORDER BY id DESC LIMIT 1")
        .bind(recipient)
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    let link = text.lines().find(|line| line.starts_with("http")).unwrap().to_owned();
    // Never from a request's Host.
    let path = link.strip_prefix(&world.domain.settings.portal_url).unwrap();
    Token::given(path.rsplit('/').next().unwrap())
}

fn is_too_many<T>(result: &Result<T, DomainError>) -> bool {
    matches!(result, Err(DomainError::TooMany { .. }))
}

fn is_conflict<T>(result: &Result<T, DomainError>) -> bool {
    matches!(result, Err(DomainError::Conflict(_)))
}
