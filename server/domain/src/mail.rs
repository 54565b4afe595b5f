//! Mail: a letter is stored in the transaction of its cause and sent after the commit. Without an SMTP server it stays
//! in the table `mails`, which a page for development shows.

use crate::jobs::{self, Job};
use crate::{Domain, DomainError, Result, Settings};
use askama::Template;
use async_trait::async_trait;
use lettre::message::{Mailbox, MultiPart};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use model::Time;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use std::time::Duration;

/// Longest wait for an SMTP server.
const SMTP_LIMIT: Duration = Duration::from_secs(20);
/// Mails that the page for development shows.
const OUTBOX_LEN: i64 = 50;

/// A mail before it is drawn. The text and the HTML part are made of the same words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Subject line.
    pub subject: String,
    /// First line of the body.
    pub heading: String,
    /// One string a paragraph.
    pub paragraphs: Vec<String>,
    /// What to click.
    pub action: Option<Action>,
    /// Small print; may be empty.
    pub footer: String,
}

/// A link drawn as a button.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Verb on the button.
    pub label: String,
    /// Whole address.
    pub url: String,
}

impl Letter {
    /// A notice: the subject is the heading, each string a paragraph.
    pub fn notice(subject: impl Into<String>, paragraphs: impl IntoIterator<Item = String>) -> Self {
        let subject = subject.into();
        Self {
            heading: subject.clone(),
            subject,
            paragraphs: paragraphs.into_iter().collect(),
            action: None,
            footer: String::new(),
        }
    }
    /// With a button that leads to a path of the portal, such as `/plan`.
    #[must_use]
    pub fn with_action(mut self, settings: &Settings, label: &str, path: &str) -> Self {
        self.action = Some(Action {
            label: label.to_owned(),
            url: format!("{}{path}", settings.portal_url),
        });
        self
    }
    /// With small print at the end.
    #[must_use]
    pub fn with_footer(mut self, footer: impl Into<String>) -> Self {
        self.footer = footer.into();
        self
    }
}

#[derive(Template)]
#[template(path = "letter.txt")]
struct AsText<'a> {
    letter: &'a Letter,
    brand: &'a str,
    portal: &'a str,
}

#[derive(Template)]
#[template(path = "letter.html")]
struct AsHtml<'a> {
    letter: &'a Letter,
    brand: &'a str,
    portal: &'a str,
}

/// The sender's name: what stands before the address in `mail_from`.
fn brand(settings: &Settings) -> &str {
    let name = settings.mail_from.split('<').next().unwrap_or_default().trim();
    if name.is_empty() { &settings.mail_from } else { name }
}

/// Stores a letter in the caller's transaction; it is sent after the commit.
///
/// # Errors
/// When the database fails.
pub async fn send(domain: &Domain, connection: &mut PgConnection, recipient: &str, letter: &Letter) -> Result<()> {
    let (brand, portal) = (brand(&domain.settings), domain.settings.portal_url.as_str());
    let text = AsText { letter, brand, portal };
    let html = AsHtml { letter, brand, portal };
    let now = domain.clock.now();
    let id = sqlx::query_scalar!(
        "INSERT INTO mails (recipient, subject, body_text, body_html, created_at) VALUES ($1, $2, $3, $4, $5)
         RETURNING id",
        recipient,
        letter.subject,
        text.render().map_err(DomainError::internal)?,
        html.render().map_err(DomainError::internal)?,
        now,
    )
    .fetch_one(&mut *connection)
    .await?;
    if domain.settings.smtp_url.is_some() {
        jobs::enqueue(domain, connection, &SendMail { mail: id }, now).await?;
    }
    Ok(())
}

/// Hands one mail to the SMTP server.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SendMail {
    mail: i64,
}

#[async_trait]
impl Job for SendMail {
    const KIND: &'static str = "mail.send";

    fn dedup_key(&self) -> Option<String> {
        Some(self.mail.to_string())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        let Some(url) = &domain.settings.smtp_url else {
            return Ok(());
        };
        let row = sqlx::query!(
            "SELECT recipient, subject, body_text, body_html FROM mails WHERE id = $1 AND sent_at IS NULL",
            self.mail
        )
        .fetch_optional(&domain.pool)
        .await?;
        let Some(row) = row else { return Ok(()) };
        let from: Mailbox = domain.settings.mail_from.parse().map_err(DomainError::internal)?;
        // The same in every try, so that a server or mail program can drop a second copy.
        let message_id = format!("<turnpike-mail-{}@{}>", self.mail, from.email.domain());
        let message = Message::builder()
            .from(from)
            .to(row.recipient.parse().map_err(DomainError::internal)?)
            .subject(row.subject)
            .message_id(Some(message_id))
            .multipart(MultiPart::alternative_plain_html(row.body_text, row.body_html))
            .map_err(DomainError::internal)?;
        let transport: AsyncSmtpTransport<Tokio1Executor> =
            AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose())
                .map_err(DomainError::internal)?
                .timeout(Some(SMTP_LIMIT))
                .build();
        transport.send(message).await.map_err(DomainError::internal)?;
        // The body may hold a link that sets a password: once it is sent nothing needs it here.
        sqlx::query!(
            "UPDATE mails SET sent_at = $2, body_text = '', body_html = '' WHERE id = $1",
            self.mail,
            domain.clock.now(),
        )
        .execute(&domain.pool)
        .await?;
        Ok(())
    }
}

/// A mail as the page for development shows it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// To whom.
    pub recipient: String,
    /// Subject line.
    pub subject: String,
    /// The text part; empty once an SMTP server took it.
    pub text: String,
    /// When it was stored.
    pub created_at: Time,
}

/// The last mails, newest first.
///
/// # Errors
/// `NotFound` outside development.
pub async fn outbox(domain: &Domain) -> Result<Vec<Sent>> {
    if !domain.settings.development {
        return Err(DomainError::NotFound);
    }
    Ok(sqlx::query_as!(
        Sent,
        "SELECT recipient, subject, body_text AS text, created_at FROM mails ORDER BY id DESC LIMIT $1",
        OUTBOX_LEN
    )
    .fetch_all(&domain.pool)
    .await?)
}
