//! The mails of a portal without an SMTP server, for development. In production the page does not exist.

use crate::AppError;
use crate::render;
use crate::session::Visitor;
use crate::ui::{card, empty, page_head, when};
use axum::response::Response;
use domain::mail::{self, Sent};
use leptos::prelude::*;

/// So often a long link may break, in characters.
const BREAK_EVERY: usize = 12;

/// A line of a mail; one that is an address can be clicked.
fn line(text: &str) -> impl IntoView + use<> {
    let text = text.to_owned();
    if text.starts_with("http://") || text.starts_with("https://") {
        let letters: Vec<char> = text.chars().collect();
        let pieces: Vec<_> = letters
            .chunks(BREAK_EVERY)
            .map(|piece| view! { {piece.iter().collect::<String>()} <wbr /> })
            .collect();
        view! { <p><a href=text>{pieces}</a></p> }.into_any()
    } else {
        view! { <p>{text}</p> }.into_any()
    }
}

fn letter(mail: &Sent) -> impl IntoView + use<> {
    let lines: Vec<_> = mail.text.lines().filter(|text| !text.is_empty()).map(line).collect();
    let note = view! { {mail.recipient.clone()} " · " {when(mail.created_at)} };
    card(mail.subject.clone(), note, lines)
}

/// The last mails, newest first.
///
/// # Errors
/// 404 outside development.
pub async fn page(visitor: Visitor) -> Result<Response, AppError> {
    let mails = mail::outbox(&visitor.site().domain).await?;
    Ok(render::private(visitor.page("Outbox", move || {
        let body = if mails.is_empty() {
            empty("No mail yet", "What the portal would send appears here.", ()).into_any()
        } else {
            mails.iter().map(letter).collect::<Vec<_>>().into_any()
        };
        let lead = "There is no SMTP server, so mail ends here. Anyone who can open this portal can read it: development only.";
        view! { <div class="narrow">{page_head("Outbox", lead, ())} {body}</div> }
    })))
}
