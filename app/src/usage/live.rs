//! Puts the domain's numbers into the words of [`super::api`], for the page and for its islands alike.

use super::api::{Bar, Figure, Figures, Log, LogRow};
use crate::error::AppError;
use crate::pricing::words;
use crate::problems;
use crate::session::SignedIn;
use crate::site::Site;
use domain::cost::Cost;
use domain::usage::{Daily, GroupBy, LogFilter, LogLine, MeterUsage, PeriodUsage};
use domain::{Viewer, budget, cost, usage};
use leptos::prelude::{ServerFnError, use_context};
use model::access::{Environment, QuotaKind, Settlement};
use model::money::grouped;
use model::{Money, Period, Time};
use std::collections::HashMap;

const DAY_S: i64 = 86_400;

/// Who asks, in a server function.
pub(super) async fn visitor() -> Result<(SignedIn, Site), ServerFnError> {
    let site = use_context::<Site>().ok_or_else(|| ServerFnError::new("the site is missing"))?;
    let visitor = leptos_axum::extract_with_state::<SignedIn, Site>(&site)
        .await
        .map_err(|_| ServerFnError::new("signed out"))?;
    Ok((visitor, site))
}

/// Tells the browser no more than that it failed; [`AppError`] has logged the cause.
pub(super) fn hidden(error: domain::DomainError) -> ServerFnError {
    ServerFnError::new(AppError::from(error).public)
}

/// The environment with this word; live when it is none.
pub(super) fn environment(word: &str) -> Environment {
    word.parse().unwrap_or(Environment::Live)
}

/// Reads a query string. Escapes other than `+` and `%XX` do not occur in the values that count here.
pub(super) fn pairs(query: &str) -> HashMap<String, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The filter in a query; what cannot be read filters nothing.
pub(super) fn filter_of(query: &HashMap<String, String>) -> LogFilter {
    let value = |name: &str| query.get(name).map(String::as_str).filter(|v| !v.is_empty());
    LogFilter {
        class: value("class")
            .and_then(|v| v.parse().ok())
            .filter(|c| (1..=5).contains(c)),
        route: value("route").map(str::to_owned),
        key: value("key").and_then(|v| v.parse().ok()),
        environment: value("env").and_then(|v| v.parse().ok()),
        refused: value("refused").is_some(),
    }
}

/// `14:05:12`, in UTC.
pub(super) fn time_of_day(time: Time) -> String {
    let s = time.unix_s().rem_euclid(DAY_S);
    format!("{:02}:{:02}:{:02}", s / 3_600, s / 60 % 60, s % 60)
}

/// The figures of the running period.
pub(super) async fn figures(site: &Site, viewer: &Viewer, environment: Environment) -> domain::Result<Figures> {
    let domain = &site.domain;
    let now = domain.clock.now();
    let Some(period) = usage::period(domain, viewer, environment).await? else {
        return Ok(Figures {
            as_of: time_of_day(now),
            ..Figures::default()
        });
    };
    let range = Period {
        start: period.period.start,
        end: now.plus_s(1),
    };
    let daily = usage::by_day(domain, viewer, environment, range, GroupBy::Route).await?;
    let (cost, budget) = match environment {
        Environment::Live => (
            cost::running(domain, viewer).await?,
            Some(budget::read(domain, viewer).await?),
        ),
        Environment::Test => (None, None),
    };
    let mut bars: Vec<Bar> = period.meters.iter().map(|m| allowance(m, period.period.end)).collect();
    if let Some(budget) = budget
        && let Some(cap) = budget.cap
    {
        bars.push(cap_bar(budget.spent, cap));
    }
    Ok(Figures {
        as_of: time_of_day(now),
        stats: stats(&period, &daily, cost.as_ref()),
        bars,
    })
}

fn stats(period: &PeriodUsage, daily: &Daily, cost: Option<&Cost>) -> Vec<Figure> {
    let figure = |name: &str, figure: String, note: String| Figure {
        name: name.to_owned(),
        figure,
        note,
    };
    let mut stats: Vec<Figure> = period
        .meters
        .iter()
        .map(|m| figure(&m.name, grouped(m.used), left_note(m)))
        .collect();
    match (period.environment, cost) {
        (Environment::Test, _) => stats.push(figure(
            "Cost",
            "none".to_owned(),
            "test calls are never billed".to_owned(),
        )),
        (Environment::Live, Some(cost)) => {
            stats.push(cost_so_far(cost));
            stats.push(match &cost.next_invoice {
                Some(next) => {
                    let note = format!("{} in advance + {} usage so far", next.flat, next.usage);
                    figure(
                        &format!("Next invoice, {}", next.at.day()),
                        next.total.to_string(),
                        note,
                    )
                }
                None => figure("Next invoice", "none".to_owned(), "nothing will be charged".to_owned()),
            });
        }
        (Environment::Live, None) => {}
    }
    let share = daily.errors.saturating_mul(10_000) / daily.requests.max(1);
    let errors = format!("{}.{:02} %", share / 100, share % 100);
    let note = format!(
        "{} of {} calls failed; {} refused; neither is billed",
        grouped(daily.errors),
        grouped(daily.requests),
        grouped(daily.refused)
    );
    stats.push(figure("Errors", errors, note));
    stats
}

/// What is left of the allowance where there is a price, and otherwise of the quota.
fn left_note(m: &MeterUsage) -> String {
    let (of, counted) = match &m.terms.overage {
        Some(_) => (m.terms.included, m.used.saturating_sub(m.settled)),
        None => (m.quota.units, m.counted),
    };
    let mut note = match counted.saturating_sub(of) {
        0 => format!("{} of {} included left", grouped(of - counted), grouped(of)),
        over => format!("{} included, {} over", grouped(of), grouped(over)),
    };
    if m.settled > 0 {
        note.push_str(&format!(", {} on the plan before", grouped(m.settled)));
    }
    note
}

fn cost_so_far(cost: &Cost) -> Figure {
    let total = cost.flat.checked_add(cost.usage).unwrap_or(cost.usage);
    let (figure, note) = match cost.settlement {
        Settlement::Complimentary => ("none".to_owned(), "given to you by the provider".to_owned()),
        Settlement::Free => (total.to_string(), "the free plan".to_owned()),
        Settlement::Stripe => (
            total.to_string(),
            format!("{} plan, paid in advance, + {} usage", cost.flat, cost.usage),
        ),
    };
    Figure {
        name: "Cost so far".to_owned(),
        figure,
        note,
    }
}

fn state(used: u64, of: u64) -> &'static str {
    if used >= of {
        "bad"
    } else if used.saturating_mul(5) >= of.saturating_mul(4) {
        "warn"
    } else {
        "good"
    }
}

fn allowance(m: &MeterUsage, resets: Time) -> Bar {
    let units = m.quota.units;
    let hard = m.quota.kind == QuotaKind::Hard;
    let left = match m.over() {
        0 => format!(
            "{} of {} used, {} left",
            grouped(m.counted),
            grouped(units),
            grouped(m.left())
        ),
        over => format!(
            "{} of {} used, {} over",
            grouped(m.counted),
            grouped(units),
            grouped(over)
        ),
    };
    let at_end = match (&m.terms.overage, &m.terms.grace) {
        (Some(_), _) if !hard => "more is charged by use".to_owned(),
        (None, _) if !hard => "more is free of charge".to_owned(),
        (None, Some(grace)) if m.over() > 0 => {
            format!("in grace: {}, free of charge, then calls are refused", grace.words())
        }
        (None, Some(grace)) => format!("then {}, then calls are refused", grace.words()),
        _ => "then calls are refused".to_owned(),
    };
    let own = m.own.as_ref().map_or_else(String::new, words::until);
    Bar {
        name: m.name.clone(),
        used: m.counted,
        of: units.max(1),
        // Past a soft quota nothing stops, so it is no more than a warning.
        state: if !hard && m.counted >= units {
            "warn"
        } else {
            state(m.counted, units)
        }
        .to_owned(),
        left: format!("{left}{own}"),
        right: format!("{at_end}; resets {}", resets.minute()),
    }
}

fn cap_bar(spent: Money, cap: Money) -> Bar {
    let (used, of) = (spent.minor.max(0).unsigned_abs(), cap.minor.max(0).unsigned_abs());
    Bar {
        name: "Spend cap".to_owned(),
        used,
        of,
        state: state(used, of).to_owned(),
        left: format!("{spent} of {cap} usage charges"),
        right: "calls that would cost more are refused".to_owned(),
    }
}

/// The last requests that pass the filter.
pub(super) async fn log(site: &Site, viewer: &Viewer, filter: &LogFilter) -> domain::Result<Log> {
    let lines = usage::requests(&site.domain, viewer, filter).await?;
    Ok(Log(lines.into_iter().map(row).collect()))
}

fn row(line: LogLine) -> LogRow {
    let refusal = problems::by_number(line.refusal).map(|p| (p.slug.to_owned(), format!("/problems/{}", p.slug)));
    let key = match (&line.key_name, &line.key_last4, &line.issuer) {
        (Some(name), Some(last4), _) => format!("{name} …{last4}"),
        (_, _, Some(issuer)) => format!("token of {issuer}"),
        _ => "unknown".to_owned(),
    };
    let state = match line.status {
        ..400 => "good",
        400..500 => "warn",
        _ => "bad",
    };
    LogRow {
        request: line.request.to_string(),
        at: line.at.to_string(),
        at_words: format!("{}, {}", line.at.day(), time_of_day(line.at)),
        status: line.status.to_string(),
        state: state.to_owned(),
        route: line.route.unwrap_or_else(|| "none".to_owned()),
        key,
        test: line.environment == Environment::Test,
        units: line.units.to_string(),
        took: took(line.duration_us),
        refusal: refusal.unwrap_or_default(),
    }
}

/// `0.4 ms`, `12 ms`, `3.2 s`.
fn took(us: i64) -> String {
    match us.max(0) {
        us @ ..10_000 => format!("{}.{} ms", us / 1_000, us / 100 % 10),
        us @ 10_000..1_000_000 => format!("{} ms", us / 1_000),
        us => format!("{}.{} s", us / 1_000_000, us / 100_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_from_the_address_and_nonsense_filters_nothing() {
        let read = |query: &str| filter_of(&pairs(query));
        assert_eq!(read("class=5&env=test&refused=1&route=countries").class, Some(5));
        let filter = read("class=5&env=test&refused=1&route=countries");
        assert_eq!(filter.environment, Some(Environment::Test));
        assert!(filter.refused);
        assert_eq!(filter.route.as_deref(), Some("countries"));
        assert_eq!(read("class=9&env=moon&key=abc&refused=&route="), LogFilter::default());
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([took(400), took(12_345), took(3_210_000)], ["0.4 ms", "12 ms", "3.2 s"]);
    }

    #[test]
    fn the_time_of_day_is_utc() {
        assert_eq!(time_of_day(Time::from_unix_s(14 * 3600 + 5 * 60 + 12)), "14:05:12");
    }
}
