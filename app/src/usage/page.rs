//! `GET /usage`: everything it shows is in its address, so a link shows the same.

use super::arguments::{FILTERS, readable};
use super::island::{LiveFigures, LiveLog};
use super::live::{self, filter_of};
use crate::error::AppError;
use crate::render::Nav;
use crate::session::SignedIn;
use crate::ui::chart::{Bars, bars};
use crate::ui::{FormState, card, empty, hidden, page_head, select, submit};
use axum::extract::Query;
use axum::response::Response;
use domain::keys::{Key, KeyRoute};
use domain::usage::{Daily, GroupBy};
use domain::{keys, usage};
use leptos::prelude::*;
use model::access::Environment;
use model::{Period, Time};
use std::collections::HashMap;

const DAY_S: i64 = 86_400;

/// What the address chose.
struct Choice {
    environment: Environment,
    range: &'static str,
    group: GroupBy,
    query: HashMap<String, String>,
}

impl Choice {
    fn read(query: HashMap<String, String>) -> Self {
        let value = |name: &str| query.get(name).map_or("", String::as_str);
        let range = RANGES.iter().map(|r| r.0).find(|r| *r == value("range"));
        Self {
            environment: live::environment(value("shown")),
            range: range.unwrap_or("period"),
            group: if value("group") == "key" {
                GroupBy::Key
            } else {
                GroupBy::Route
            },
            query,
        }
    }

    fn group_word(&self) -> &'static str {
        match self.group {
            GroupBy::Key => "key",
            GroupBy::Route => "route",
        }
    }

    /// The page's address with one thing changed.
    fn with(&self, name: &str, value: &str) -> String {
        let mut all: Vec<(&str, &str)> = vec![
            ("shown", self.environment.word()),
            ("range", self.range),
            ("group", self.group_word()),
        ];
        all.extend(
            FILTERS
                .iter()
                .filter_map(|f| self.query.get(*f).map(|v| (*f, v.as_str()))),
        );
        let pairs: Vec<String> = all
            .iter()
            .map(|(n, v)| (*n, if *n == name { value } else { *v }))
            .filter(|(_, v)| !v.is_empty())
            .map(|(n, v)| format!("{n}={}", crate::session::escape(v)))
            .collect();
        format!("/usage?{}", pairs.join("&"))
    }

    fn filter_query(&self) -> String {
        // What the page passes over, the server function would refuse.
        let pairs = FILTERS
            .iter()
            .filter_map(|f| self.query.get(*f).map(|v| (f, v)))
            .filter(|(f, v)| readable(f, v).is_ok())
            .map(|(f, v)| format!("{f}={v}"));
        pairs.collect::<Vec<_>>().join("&")
    }

    fn period(&self, running: Option<Period>, now: Time) -> Period {
        let today = Time::from_unix_s(now.unix_s().div_euclid(DAY_S) * DAY_S);
        let start = match self.range {
            "today" => today,
            "7d" => today.plus_s(-6 * DAY_S),
            "30d" => today.plus_s(-29 * DAY_S),
            _ => running.map_or(today.plus_s(-29 * DAY_S), |p| p.start),
        };
        Period {
            start,
            end: now.plus_s(1),
        }
    }
}

const RANGES: [(&str, &str); 4] = [
    ("today", "Today"),
    ("7d", "7 days"),
    ("30d", "30 days"),
    ("period", "Billing period"),
];

/// `GET /usage`
///
/// # Errors
/// When the database fails.
pub async fn page(visitor: SignedIn, Query(query): Query<HashMap<String, String>>) -> Result<Response, AppError> {
    let (site, viewer) = (visitor.site(), visitor.viewer());
    let domain = &site.domain;
    let choice = Choice::read(query);
    let figures = live::figures(site, viewer, choice.environment).await?;
    let running = usage::period(domain, viewer, choice.environment).await?;
    let range = choice.period(running.map(|p| p.period), domain.clock.now());
    let daily = usage::by_day(domain, viewer, choice.environment, range, choice.group).await?;
    let rows = live::log(site, viewer, &filter_of(&choice.query)).await?;
    let (routes, keys) = (keys::routes(domain).await?, keys::list(domain, viewer).await?);
    Ok(visitor.console("Usage", Nav::Usage, || {
        let lead = format!("{} to now, in UTC.", range.start.day());
        let environment = choice.environment.to_string();
        let filter = choice.filter_query();
        view! {
            {page_head("Usage", lead, tabs(&choice))}
            <LiveFigures figures=figures environment=environment />
            {calls(&choice, &daily)}
            {card("Last 100 requests", "kept for 30 days", view! {
                {filter_form(&choice, &routes, &keys)}
                <LiveLog rows=rows filter=filter />
            })}
        }
    }))
}

fn tabs(choice: &Choice) -> impl IntoView + use<> {
    let environments: Vec<_> = [("live", "Live"), ("test", "Test")]
        .into_iter()
        .map(|(word, text)| tab(choice.with("shown", word), text, choice.environment.word() == word))
        .collect();
    let ranges: Vec<_> = RANGES
        .iter()
        .map(|(word, text)| tab(choice.with("range", word), text, choice.range == *word))
        .collect();
    view! {
        <div class="tabs" role="group" aria-label="Environment">{environments}</div>
        <div class="tabs" role="group" aria-label="Range">{ranges}</div>
    }
}

fn tab(href: String, text: &'static str, here: bool) -> impl IntoView {
    view! { <a href=href aria-current=here.then_some("true")>{text}</a> }
}

fn calls(choice: &Choice, daily: &Daily) -> AnyView {
    let groups: Vec<_> = [("route", "By route"), ("key", "By key")]
        .into_iter()
        .map(|(word, text)| tab(choice.with("group", word), text, choice.group_word() == word))
        .collect();
    let groups = view! { <span class="tabs" role="group" aria-label="Group">{groups}</span> };
    if daily.requests == 0 {
        let text = "Calls appear here within two seconds. The overview has a first call ready to paste.";
        let action = view! { <a class="button" href="/home">"Make the first call"</a> };
        return card("Calls per day", groups, empty("No calls in this range", text, action)).into_any();
    }
    let labels: Vec<String> = daily.days.iter().map(|d| short_day(*d)).collect();
    let span = match (labels.first(), labels.last()) {
        (Some(first), Some(last)) if first != last => format!("{first} to {last}"),
        (Some(first), _) => first.clone(),
        _ => String::new(),
    };
    let chart = Bars {
        title: format!("Calls per day, {span}, by {}", choice.group_word()),
        labels,
        series: daily
            .series
            .iter()
            .map(|s| (s.label.clone(), s.values.clone()))
            .collect(),
    };
    card("Calls per day", groups, bars("calls", &chart)).into_any()
}

/// `21 Nov`
fn short_day(day: Time) -> String {
    let long = day.day();
    long.rsplit_once(' ')
        .map_or(long.clone(), |(short, _)| short.to_owned())
}

fn filter_form(choice: &Choice, routes: &[KeyRoute], keys: &[Key]) -> impl IntoView + use<> {
    let any = |text: &str| (String::new(), text.to_owned());
    let classes: Vec<_> = std::iter::once(any("Any status"))
        .chain([2, 3, 4, 5].map(|c| (c.to_string(), format!("{c}xx"))))
        .collect();
    let routes: Vec<_> = std::iter::once(any("Any route"))
        .chain(routes.iter().map(|r| (r.slug.clone(), r.slug.clone())))
        .collect();
    let keys: Vec<_> = std::iter::once(any("Any key"))
        .chain(
            keys.iter()
                .map(|k| (k.id.to_string(), format!("{} …{}", k.name, k.last4))),
        )
        .collect();
    let environments = [
        any("Live and test"),
        ("live".to_owned(), "Live".to_owned()),
        ("test".to_owned(), "Test".to_owned()),
    ];
    let answered = [
        any("Every answer"),
        ("1".to_owned(), "Only the gateway's own".to_owned()),
    ];
    let mut form = FormState::empty();
    for name in FILTERS {
        form = form.with(name, choice.query.get(name).cloned().unwrap_or_default());
    }
    view! {
        <form method="get" action="/usage" class="filters">
            {hidden("shown", choice.environment.word())}
            {hidden("range", choice.range)}
            {hidden("group", choice.group_word())}
            {select(&form, "class", "Status", &classes, "")}
            {select(&form, "route", "Route", &routes, "")}
            {select(&form, "key", "Key", &keys, "")}
            {select(&form, "env", "Environment", &environments, "")}
            {select(&form, "refused", "Answered by", &answered, "")}
            {submit("Filter", "")}
        </form>
    }
}
