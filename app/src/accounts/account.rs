//! The account page: address, name, password, and the list of sessions.

use super::refuse;
use crate::AppError;
use crate::session::{Person, SignedInBilling, Visitor};
use crate::ui::{FormState, Tone, badge, banner, card, field, hidden, page_head, submit, when};
use axum::extract::{Form, Query};
use axum::response::{IntoResponse, Redirect, Response};
use domain::identity::Identity;
use domain::sessions::{self, Handle, Line};
use domain::settings::Secret;
use domain::{consumers, members};
use leptos::prelude::*;

/// What the address carries.
#[derive(serde::Deserialize)]
pub struct Address {
    done: Option<String>,
}

/// What the form for the name sends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    name: String,
}

/// What the form for the password sends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passwords {
    current: String,
    password: String,
}

/// What the button at a session sends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ending {
    session: String,
}

/// What the page shows beside the person.
struct Shown {
    name: FormState,
    password: FormState,
    done: Option<&'static str>,
    sessions: Vec<Line>,
    current: Option<Handle>,
}

impl Shown {
    async fn load(visitor: &Visitor, identity: &Identity) -> Result<Self, AppError> {
        let name = identity.membership().map(|m| m.name().to_owned()).unwrap_or_default();
        Ok(Self {
            name: FormState::empty().with("name", name),
            password: FormState::empty(),
            done: None,
            sessions: sessions::list(&visitor.site().domain, identity.member()).await?,
            current: visitor.session_handle(),
        })
    }
}

fn draw(person: &Person, shown: Shown) -> Response {
    let identity = person.identity().clone();
    person.page("Account", move || {
        let done = shown.done.map(|text| banner(Tone::Good, text, ()));
        let renaming = identity.billing_manager().map(|_| name_form(&shown.name));
        let lead = match identity.membership() {
            Some(m) => format!("{} · you are {} of this account", identity.email(), m.role()),
            None => format!("{} · one of the provider's people", identity.email()),
        };
        view! {
            {page_head("Account", lead, ())}
            {done}
            {renaming}
            {password_form(&shown.password, identity.email())}
            {session_list(&shown.sessions, shown.current.as_ref())}
        }
    })
}

fn name_form(state: &FormState) -> impl IntoView + use<> {
    let form = view! {
        <form method="post" action="/account/name" class="stack">
            {state.summary()}
            {field(state, "name", "Name", "text", "organization", "What the provider sees and what stands on invoices.")}
            {submit("Rename", "")}
        </form>
    };
    card("Name of the account", (), form)
}

fn password_form(state: &FormState, email: &str) -> impl IntoView + use<> {
    let form = view! {
        <form method="post" action="/account/password" class="stack">
            {state.summary()}
            // Tells password managers whose password this is; not sent, because it has no name.
            <input type="email" autocomplete="username" value=email.to_owned() hidden readonly aria-label="E-mail" />
            {field(state, "current", "Present password", "password", "current-password", "")}
            {field(state, "password", "New password", "password", "new-password", "At least 12 characters. Ends all other sessions.")}
            {submit("Change the password", "")}
        </form>
    };
    card("Password", (), form)
}

fn session_list(lines: &[Line], current: Option<&Handle>) -> impl IntoView + use<> {
    let rows: Vec<_> = lines
        .iter()
        .map(|line| session_row(line, current == Some(&line.handle)))
        .collect();
    let others = (lines.len() > 1).then(|| {
        view! {
            <form method="post" action="/account/sessions/end-others">{submit("End all other sessions", "danger")}</form>
        }
    });
    let table = view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label="Sessions"><table class="stacked">
            <thead><tr>
                <th scope="col">"Browser"</th><th scope="col">"Network address"</th><th scope="col">"Began"</th>
                <th scope="col">"Last seen"</th><th scope="col">"Ends"</th><th scope="col"><span class="skip">"Actions"</span></th>
            </tr></thead>
            <tbody>{rows}</tbody>
        </table></div>
        {others}
    };
    card("Sessions", "A session ends a day after its log-in.", table)
}

fn session_row(line: &Line, this: bool) -> impl IntoView + use<> {
    let browser = browser_name(&line.user_agent);
    let action = if this {
        badge(Tone::Good, "this one").into_any()
    } else {
        view! {
            <form method="post" action="/account/sessions/end">
                {hidden("session", line.handle.to_string())}
                <button class="button" aria-label=format!("End the session of {browser} that began {}", line.created_at.minute())>"End"</button>
            </form>
        }
        .into_any()
    };
    let ip = if line.ip.is_empty() {
        "this machine".to_owned()
    } else {
        line.ip.clone()
    };
    view! {
        <tr>
            <td title=line.user_agent.clone()>{browser.clone()}</td>
            <td data-label="Network address">{ip}</td>
            <td data-label="Began">{when(line.created_at)}</td>
            <td data-label="Last seen">{when(line.seen_at)}</td>
            <td data-label="Ends">{when(line.expires_at)}</td>
            <td class="num">{action}</td>
        </tr>
    }
}

/// `Firefox on Linux` of what browsers call themselves; the text itself where that says nothing known.
fn browser_name(user_agent: &str) -> String {
    let first = |names: &[(&str, &'static str)]| {
        names
            .iter()
            .find(|(mark, _)| user_agent.contains(mark))
            .map(|(_, name)| *name)
    };
    // The order matters: Edge and Opera also call themselves Chrome, Chrome also calls itself Safari.
    let browser = first(&[
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ]);
    let system = first(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ]);
    match (browser, system) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        _ if user_agent.is_empty() => "unknown".to_owned(),
        _ => user_agent.chars().take(40).collect(),
    }
}

/// The page.
///
/// # Errors
/// When the database fails.
pub async fn page(person: Person, Query(address): Query<Address>) -> Result<Response, AppError> {
    let mut shown = Shown::load(&person, person.identity()).await?;
    shown.done = match address.done.as_deref() {
        Some("name") => Some("The account has its new name."),
        Some("password") => Some("The password is changed and all other sessions are ended."),
        Some("session") => Some("The session is ended."),
        Some("others") => Some("All other sessions are ended."),
        _ => None,
    };
    Ok(draw(&person, shown))
}

/// Renames the account.
///
/// # Errors
/// When the database fails.
pub async fn rename(billing: SignedInBilling, person: Person, Form(form): Form<Name>) -> Result<Response, AppError> {
    match consumers::rename(&person.site().domain, billing.billing_manager(), &form.name).await {
        Ok(()) => Ok(Redirect::to("/account?done=name").into_response()),
        Err(error) => {
            let shown = Shown::load(&person, person.identity()).await?;
            let state = FormState::empty().with("name", form.name);
            refuse(state, error, |name| draw(&person, Shown { name, ..shown }))
        }
    }
}

/// Changes the password; this session goes on under a new id, all others end.
///
/// # Errors
/// When the database fails.
pub async fn change_password(person: Person, Form(form): Form<Passwords>) -> Result<Response, AppError> {
    let (domain, member) = (&person.site().domain, person.identity().member());
    let (current, password) = (Secret::new(form.current), Secret::new(form.password));
    let keep = person.session_handle();
    match members::change_password(domain, member, &current, &password, keep.as_ref()).await {
        Ok(()) => {
            person.sign_in(member).await?;
            Ok(Redirect::to("/account?done=password").into_response())
        }
        Err(error) => {
            let shown = Shown::load(&person, person.identity()).await?;
            refuse(FormState::empty(), error, |password| {
                draw(&person, Shown { password, ..shown })
            })
        }
    }
}

/// Ends one session.
///
/// # Errors
/// 404 when it is gone or somebody else's.
pub async fn end_session(person: Person, Form(form): Form<Ending>) -> Result<Response, AppError> {
    let handle: Handle = form.session.parse()?;
    sessions::end(&person.site().domain, person.identity().member(), &handle).await?;
    Ok(Redirect::to("/account?done=session").into_response())
}

/// Ends all sessions but this one.
///
/// # Errors
/// When the database fails.
pub async fn end_other_sessions(person: Person) -> Result<Response, AppError> {
    let keep = person.session_handle();
    sessions::end_others_of(&person.site().domain, person.identity().member(), keep.as_ref()).await?;
    Ok(Redirect::to("/account?done=others").into_response())
}

#[cfg(test)]
mod tests {
    use super::browser_name;

    #[test]
    fn names_browsers() {
        let chrome =
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36";
        assert_eq!(browser_name(chrome), "Chrome on Linux");
        assert_eq!(browser_name(&format!("{chrome} Edg/141.0")), "Edge on Linux");
        let phone =
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Safari/604.1";
        assert_eq!(browser_name(phone), "Safari on iPhone");
        assert_eq!(browser_name("curl/8.5.0"), "curl/8.5.0");
        assert_eq!(browser_name(""), "unknown");
    }
}
