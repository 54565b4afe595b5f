//! `GET /pricing`, also for people who are not signed in.

use super::estimate::{Plans, Priced, read_units};
use super::island::Estimator;
use super::words;
use crate::AppError;
use crate::session::Visitor;
use crate::ui::{empty, hidden};
use axum::extract::Query;
use axum::response::Response;
use domain::catalogue::{self, Catalogue, CurrentPlan, Meter};
use domain::subscriptions::{self, Subscription};
use leptos::prelude::*;
use model::access::Interval;
use model::catalogue::{Offer, PlanTerms};
use std::collections::HashMap;

/// Units that the estimator begins with.
const FIRST_UNITS: u64 = 100_000;

/// What somebody who looks at the page can do about a plan.
enum Standing {
    /// Sign up.
    Stranger,
    /// Look: the role does not let them change the plan.
    Onlooker(Option<Box<Subscription>>),
    /// Choose.
    Manager(Option<Box<Subscription>>),
}

/// `GET /pricing`
///
/// # Errors
/// When the database fails.
pub async fn page(visitor: Visitor, Query(query): Query<HashMap<String, String>>) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let catalogue = catalogue::current(domain).await?;
    let interval = query
        .get("interval")
        .and_then(|i| i.parse().ok())
        .unwrap_or(Interval::Month);
    let units = query.get("calls").and_then(|c| read_units(c)).unwrap_or(FIRST_UNITS);
    let standing = match visitor
        .identity()
        .and_then(|i| Some((i.viewer()?, i.billing_manager().is_some())))
    {
        None => Standing::Stranger,
        Some((viewer, manages)) => {
            let current = subscriptions::current(domain, &viewer).await?.map(Box::new);
            if manages {
                Standing::Manager(current)
            } else {
                Standing::Onlooker(current)
            }
        }
    };
    let Some(catalogue) = catalogue.filter(|c| !c.plans.is_empty()) else {
        return Ok(visitor.page("Pricing", || {
            let text = "The provider has not published any plans. Come back a little later.";
            view! { <div class="narrow"><h1>"Pricing"</h1>{empty("No plans yet", text, ())}</div> }
        }));
    };
    Ok(visitor.page("Pricing", || {
        let cards: Vec<_> = catalogue.plans.iter().map(|p| card(&catalogue, p, interval, &standing)).collect();
        view! {
            <section class="hero">
                <h1>{catalogue.product.summary.clone()}</h1>
                <p>"One key, one bill you can check line by line. Start free, stop whenever you like."</p>
                {switch(&catalogue, interval)}
            </section>
            <div class="wrap">
                <div class="plans">{cards}</div>
                {estimator(&catalogue, interval, units)}
                {comparison(&catalogue, interval)}
                <p><small>"Prices are in "{catalogue.product.currency.code().to_uppercase()}" and exclude tax. Paid plans renew until cancelled; payment is handled by Stripe."</small></p>
            </div>
        }
    }))
}

/// Month and year, when anything is sold by the year.
fn switch(catalogue: &Catalogue, interval: Interval) -> impl IntoView + use<> {
    let saving = catalogue
        .plans
        .iter()
        .filter_map(|p| words::yearly_saving(&p.terms))
        .max_by_key(|m| m.minor);
    let by_year = catalogue.plans.iter().any(|p| p.terms.offer(Interval::Year).is_some());
    by_year.then(|| {
        let here = |i: Interval| (i == interval).then_some("true");
        let yearly = saving.map_or("Yearly".to_owned(), |s| {
            format!("Yearly, up to {} less", words::short(s))
        });
        view! {
            <nav class="tabs" aria-label="Interval">
                <a href="/pricing?interval=month" aria-current=here(Interval::Month)>"Monthly"</a>
                <a href="/pricing?interval=year" aria-current=here(Interval::Year)>{yearly}</a>
            </nav>
        }
    })
}

fn card(catalogue: &Catalogue, plan: &CurrentPlan, interval: Interval, standing: &Standing) -> AnyView {
    let terms = &plan.terms;
    // A plan without a yearly offer (the free one) is shown with its monthly one.
    let Some(offer) = terms.offer(interval).or_else(|| terms.offers.first()) else {
        return ().into_any();
    };
    let lines: Vec<_> = words::lines(catalogue, terms, offer)
        .into_iter()
        .map(|line| view! { <li>{line}</li> })
        .collect();
    let chosen = terms
        .popular
        .then(|| view! { <span class="badge" data-state="good">"most chosen"</span> });
    let saving = words::yearly_saving(terms)
        .filter(|_| offer.interval == Interval::Year)
        .map(|m| view! { <small>{format!("{} less than twelve months", words::short(m))}</small> });
    view! {
        <article class="plan" data-popular=terms.popular.then_some("")>
            <header><h2>{terms.name.clone()} " " {chosen}</h2><p>{terms.tagline.clone()}</p></header>
            <p class="price">{words::short(offer.flat)}" "<small>{format!("a {}", offer.interval)}</small> {saving}</p>
            <ul>{lines}</ul>
            {action(plan, offer.interval, standing)}
        </article>
    }
    .into_any()
}

/// The button under a plan; it knows who looks and what they have.
fn action(plan: &CurrentPlan, interval: Interval, standing: &Standing) -> AnyView {
    let terms = &plan.terms;
    let kind = terms.popular.then_some("primary");
    let link = |href: String, text: String| {
        view! { <a class="button" data-size="large" data-kind=kind href=href>{text}</a> }.into_any()
    };
    let (current, manages) = match standing {
        Standing::Stranger if terms.is_free() => return link("/signup".to_owned(), "Get a key".to_owned()),
        Standing::Stranger => return link("/signup".to_owned(), format!("Start with {}", terms.name)),
        Standing::Onlooker(current) => (current.as_deref(), false),
        Standing::Manager(current) => (current.as_deref(), true),
    };
    if current.is_some_and(|c| c.terms.slug == terms.slug && (c.interval == interval || terms.is_free())) {
        return view! { <a class="button" data-size="large" href="/plan">"Your plan"</a> }.into_any();
    }
    if !manages {
        return view! { <p><small>"Owners and admins of your account can change the plan."</small></p> }.into_any();
    }
    let paid = current.is_some_and(Subscription::is_paid);
    match (paid, terms.is_free()) {
        (true, true) => link("/plan/cancel".to_owned(), format!("Go back to {}", terms.name)),
        (true, false) => {
            let href = format!("/plan/change?plan={}&interval={interval}", terms.slug);
            link(href, format!("Change to {}", terms.name))
        }
        (false, true) => link("/plan".to_owned(), "Your plan".to_owned()),
        (false, false) => view! {
            <form method="post" action="/plan/checkout">
                {hidden("plan", terms.slug.clone())}
                {hidden("interval", interval.to_string())}
                <button class="button" data-size="large" data-kind=kind>{format!("Choose {}", terms.name)}</button>
            </form>
        }
        .into_any(),
    }
}

fn estimator(catalogue: &Catalogue, interval: Interval, units: u64) -> impl IntoView + use<> {
    let meter = catalogue.meters.first()?;
    let plans: Vec<Priced> = catalogue
        .plans
        .iter()
        .filter_map(|p| {
            let offer = p.terms.offer(interval)?;
            let terms = offer.meters.iter().find(|m| m.meter == meter.slug)?;
            Some(Priced {
                name: p.terms.name.clone(),
                flat: offer.flat,
                meter: terms.clone(),
            })
        })
        .collect();
    let mut unit = format!("{}s", meter.unit);
    if let Some(first) = unit.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    (!plans.is_empty()).then(|| {
        view! {
            <section class="card" id="estimate">
                <header><h2>"What would you pay?"</h2><small>"the same arithmetic as your invoice"</small></header>
                <Estimator plans=Plans(plans) units=units unit=unit interval=interval.to_string() />
            </section>
        }
    })
}

type Offered<'a> = Vec<(&'a PlanTerms, &'a Offer)>;
type Row = (String, Vec<String>);

/// What there is to compare: a name, and what each plan says to it.
fn compared(catalogue: &Catalogue, offered: &Offered<'_>) -> Vec<Row> {
    let of_plans = |says: &dyn Fn(&PlanTerms) -> String| offered.iter().map(|(t, _)| says(t)).collect::<Vec<_>>();
    let prices = offered
        .iter()
        .map(|(_, o)| format!("{} a {}", words::short(o.flat), o.interval));
    let mut rows = vec![("Price".to_owned(), prices.collect())];
    for meter in &catalogue.meters {
        rows.extend(metered(meter, offered));
    }
    rows.push((
        "Calls a second".to_owned(),
        of_plans(&|t| t.rate_limit.per_second.to_string()),
    ));
    let limited = |(t, _): &(&PlanTerms, _)| !t.limits.is_empty() || t.concurrency.is_some();
    if offered.iter().any(limited) {
        rows.push(("Further limits".to_owned(), of_plans(&further_limits)));
    }
    for feature in &catalogue.features {
        let has = |t: &PlanTerms| {
            if t.features.contains(&feature.slug) {
                "Yes"
            } else {
                "No"
            }
            .to_owned()
        };
        rows.push((feature.name.clone(), of_plans(&has)));
    }
    rows
}

fn metered(meter: &Meter, offered: &Offered<'_>) -> [Row; 2] {
    let terms = || {
        offered
            .iter()
            .map(|(_, o)| (o, o.meters.iter().find(|m| m.meter == meter.slug)))
    };
    let included = terms().map(|(_, t)| t.map_or("none".to_owned(), |t| words::units(t.included, Some(meter))));
    let over = terms().map(|(o, t)| {
        let said = t.and_then(|t| words::overage(t, o.flat));
        said.map_or("refused".to_owned(), |w| w.trim_start_matches("then ").to_owned())
    });
    [
        (format!("{} included", meter.name), included.collect()),
        (format!("{} above that", meter.name), over.collect()),
    ]
}

fn further_limits(terms: &PlanTerms) -> String {
    let rates = terms.limits.iter().map(|l| l.words(str::to_owned));
    let words: Vec<_> = rates.chain(words::in_flight(terms)).collect();
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join("; ")
    }
}

fn comparison(catalogue: &Catalogue, interval: Interval) -> impl IntoView + use<> {
    let offered: Offered<'_> = catalogue
        .plans
        .iter()
        .filter_map(|p| Some((&p.terms, p.terms.offer(interval).or_else(|| p.terms.offers.first())?)))
        .collect();
    let names: Vec<String> = offered.iter().map(|(t, _)| t.name.clone()).collect();
    let row = |(name, cells): Row| {
        let cells: Vec<_> = cells
            .into_iter()
            .zip(&names)
            .map(|(c, plan)| view! { <td data-label=plan.clone()>{c}</td> })
            .collect();
        view! { <tr><th scope="row">{name}</th>{cells}</tr> }
    };
    let rows: Vec<_> = compared(catalogue, &offered).into_iter().map(row).collect();
    let heads: Vec<_> = names
        .iter()
        .map(|n| view! { <th scope="col">{n.clone()}</th> })
        .collect();
    view! {
        <section class="card">
            <header><h2>"Side by side"</h2></header>
            <div class="table-wrap" tabindex="0" role="group" aria-label="Plans side by side">
                <table class="stacked compare"><thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table>
            </div>
        </section>
    }
}
