//! Cards, badges, banners, figures: the look in one place.

use leptos::prelude::*;
use model::Time;

/// What a colour means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    /// Says something, judges nothing.
    Plain,
    /// As it should be.
    Good,
    /// Wants attention.
    Warn,
    /// Stops something.
    Bad,
    /// News.
    Info,
}

impl Tone {
    fn word(self) -> Option<&'static str> {
        match self {
            Tone::Plain => None,
            Tone::Good => Some("good"),
            Tone::Warn => Some("warn"),
            Tone::Bad => Some("bad"),
            Tone::Info => Some("info"),
        }
    }
}

/// The top of a page: its name, the sentence that matters now, its main action.
pub fn page_head(title: impl Into<String>, lead: impl Into<String>, actions: impl IntoView + 'static) -> AnyView {
    view! {
        <div class="page-head">
            <div><h1>{title.into()}</h1><p>{lead.into()}</p></div>
            <div class="actions">{actions.into_any()}</div>
        </div>
    }
    .into_any()
}

/// A card; `note` stands at the right of its heading.
pub fn card(heading: impl Into<String>, note: impl IntoView + 'static, body: impl IntoView + 'static) -> AnyView {
    view! {
        <section class="card">
            <header><h2>{heading.into()}</h2><small>{note.into_any()}</small></header>
            {body.into_any()}
        </section>
    }
    .into_any()
}

/// A word with a dot.
pub fn badge(tone: Tone, text: impl Into<String>) -> AnyView {
    view! { <span class="badge" data-state=tone.word()>{text.into()}</span> }.into_any()
}

/// A line across the page for what needs a decision.
pub fn banner(tone: Tone, text: impl Into<String>, action: impl IntoView + 'static) -> AnyView {
    view! { <div class="banner" data-state=tone.word() role="status"><p>{text.into()}</p> {action.into_any()}</div> }
        .into_any()
}

/// Nothing here yet: what it is, and how to begin.
pub fn empty(heading: impl Into<String>, text: impl Into<String>, action: impl IntoView + 'static) -> AnyView {
    view! { <div class="empty"><h2>{heading.into()}</h2><p>{text.into()}</p>{action.into_any()}</div> }.into_any()
}

/// A figure with its name and a note.
pub fn stat(name: impl Into<String>, figure: impl IntoView + 'static, note: impl Into<String>) -> AnyView {
    view! { <dl class="stat"><dt>{name.into()}</dt><dd>{figure.into_any()}</dd><dd class="note">{note.into()}</dd></dl> }
    .into_any()
}

/// How much of an allowance is used, as a bar and in words. The bar is `<progress>`, so it needs no inline style.
pub fn meter_bar(
    name: impl Into<String>,
    used: u64,
    of: u64,
    left: impl Into<String>,
    right: impl Into<String>,
) -> AnyView {
    let state = if used >= of {
        "bad"
    } else if used.saturating_mul(5) >= of.saturating_mul(4) {
        "warn"
    } else {
        "good"
    };
    view! {
        <div class="meter" data-state=state>
            <progress max=of.max(1).to_string() value=used.min(of).to_string() aria-label=name.into()></progress>
            <div class="words"><span>{left.into()}</span><span>{right.into()}</span></div>
        </div>
    }
    .into_any()
}

/// An instant, to the minute, in UTC.
pub fn when(time: Time) -> AnyView {
    view! { <time datetime=time.to_string()>{time.minute()}</time> }.into_any()
}

/// A day, in UTC; the whole instant is on the element.
pub fn on_day(time: Time) -> AnyView {
    view! { <time datetime=time.to_string() title=time.minute()>{time.day()}</time> }.into_any()
}
