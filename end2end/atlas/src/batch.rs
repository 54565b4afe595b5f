//! Many lookups in one request, answered in their order; one that fails does not fail the others.

use crate::clock::Clock;
use crate::countries::{self, CountryDetail};
use crate::currencies::{self, Currency};
use crate::problem::{Kind, Problem};
use crate::request::{Body, Nothing, Params};
use crate::time::{self, LocalTime, TimeLookup};
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most lookups in a batch.
const MAX_LOOKUPS: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch {
    /// Read one by one, so that one that cannot be read is an error of its own.
    lookups: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Lookup {
    Country(String),
    Currency(String),
    Time(TimeLookup),
}

#[derive(Serialize)]
struct Answers {
    results: Vec<Answer>,
}

/// What the lookup's own endpoint would answer.
#[derive(Serialize)]
struct Answer {
    status: u16,
    body: AnswerBody,
}

#[derive(Serialize)]
#[serde(untagged)]
enum AnswerBody {
    Country(CountryDetail),
    Currency(Currency),
    Time(LocalTime),
    Problem(Problem),
}

pub(crate) async fn answer(
    State(clock): State<Clock>,
    Params(Nothing {}): Params<Nothing>,
    Body(batch): Body<Batch>,
) -> Result<impl IntoResponse, Problem> {
    let count = batch.lookups.len();
    if count == 0 || count > MAX_LOOKUPS {
        let detail = format!("lookups: {count} of them; a batch has 1 to {MAX_LOOKUPS}");
        return Err(Problem::new(Kind::InvalidBody, detail));
    }
    let results = batch
        .lookups
        .into_iter()
        .map(|lookup| match look_up(lookup, &clock) {
            Ok(body) => Answer { status: 200, body },
            Err(problem) => Answer {
                status: problem.status,
                body: AnswerBody::Problem(problem),
            },
        })
        .collect();
    Ok((crate::MOMENTARY, Json(Answers { results })))
}

fn look_up(lookup: Value, clock: &Clock) -> Result<AnswerBody, Problem> {
    let lookup = serde_json::from_value(lookup).map_err(|e| Problem::new(Kind::InvalidBody, e.to_string()))?;
    Ok(match lookup {
        Lookup::Country(code) => AnswerBody::Country(countries::detail(&code)?),
        Lookup::Currency(code) => AnswerBody::Currency(currencies::find(&code)?),
        Lookup::Time(lookup) => AnswerBody::Time(time::answer(&lookup, clock)?),
    })
}
