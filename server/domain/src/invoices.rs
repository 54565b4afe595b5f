//! The mirror of Stripe's invoices, and the check that their usage lines are what our own rating says, to the cent.

use crate::payments::{PaymentsError, StripeInvoice, StripeLine};
use crate::{Domain, DomainError, Result, Viewer, catalogue, cost};
use model::access::Interval;
use model::price::rate;
use model::{ConsumerId, Currency, InvoiceId, Money, Period, PlanVersionId, Time};
use rust_decimal::Decimal;
use sqlx::PgConnection;
use std::collections::BTreeSet;

/// Invoices that a list shows.
const MAX_LISTED: i64 = 100;

/// An invoice as lists show it.
#[derive(Debug, Clone)]
pub struct Invoice {
    /// Our id.
    pub id: InvoiceId,
    /// Number on the document, once final.
    pub number: Option<String>,
    /// draft, open, paid, void, uncollectible.
    pub status: String,
    /// All lines.
    pub total: Money,
    /// Still to pay.
    pub amount_due: Money,
    /// Paid.
    pub amount_paid: Money,
    /// What it covers.
    pub period: Period,
    /// Stripe's page for it.
    pub hosted_url: Option<String>,
    /// The document.
    pub pdf_url: Option<String>,
    /// When it was made.
    pub created_at: Time,
}

/// A line of an invoice.
#[derive(Debug, Clone)]
pub struct Line {
    /// Stripe's words.
    pub description: String,
    /// Units.
    pub quantity: Option<i64>,
    /// Price of one, in exact minor units.
    pub unit_minor: Option<Decimal>,
    /// The amount; negative is a credit.
    pub amount: Money,
    /// Usage, as opposed to a price in advance.
    pub metered: bool,
    /// What it covers.
    pub period: Period,
}

/// The newest 100 invoices of the consumer.
///
/// # Errors
/// When the database fails.
pub async fn list(domain: &Domain, viewer: &Viewer) -> Result<Vec<Invoice>> {
    read(domain, viewer, None).await
}

/// One invoice with its lines.
///
/// # Errors
/// `NotFound` when it is not the consumer's.
pub async fn detail(domain: &Domain, viewer: &Viewer, id: InvoiceId) -> Result<(Invoice, Vec<Line>)> {
    let invoice = read(domain, viewer, Some(id))
        .await?
        .pop()
        .ok_or(DomainError::NotFound)?;
    let currency = invoice.total.currency;
    let rows = sqlx::query!(
        "SELECT description, quantity, unit_minor, amount_minor, metered, period_start, period_end
         FROM invoice_lines WHERE invoice_id = $1 ORDER BY position",
        id as InvoiceId,
    )
    .fetch_all(&domain.pool)
    .await?;
    let lines = rows.into_iter().map(|r| Line {
        description: r.description,
        quantity: r.quantity,
        unit_minor: r.unit_minor.and_then(|text| text.parse().ok()),
        amount: Money {
            minor: r.amount_minor,
            currency,
        },
        metered: r.metered,
        period: Period {
            start: r.period_start,
            end: r.period_end,
        },
    });
    Ok((invoice, lines.collect()))
}

async fn read(domain: &Domain, viewer: &Viewer, one: Option<InvoiceId>) -> Result<Vec<Invoice>> {
    let rows = sqlx::query!(
        r#"SELECT id, number, status, currency AS "currency: Currency", total_minor, amount_due_minor,
                  amount_paid_minor, period_start, period_end, hosted_url, pdf_url, created_at
           FROM invoices WHERE consumer_id = $1 AND ($2::text IS NULL OR id = $2)
           ORDER BY created_at DESC, id DESC LIMIT $3"#,
        viewer.consumer() as ConsumerId,
        one as Option<InvoiceId>,
        MAX_LISTED,
    )
    .fetch_all(&domain.pool)
    .await?;
    let invoices = rows.into_iter().map(|r| {
        let money = |minor| Money {
            minor,
            currency: r.currency,
        };
        Invoice {
            id: r.id,
            total: money(r.total_minor),
            amount_due: money(r.amount_due_minor),
            amount_paid: money(r.amount_paid_minor),
            number: r.number,
            status: r.status,
            period: Period {
                start: r.period_start,
                end: r.period_end,
            },
            hosted_url: r.hosted_url,
            pdf_url: r.pdf_url,
            created_at: r.created_at,
        }
    });
    Ok(invoices.collect())
}

/// Copies an invoice from Stripe, and once it is final compares its usage lines with our own rating. An invoice that is
/// gone or of nobody we know is passed over.
///
/// # Errors
/// `PaymentsUnavailable` when Stripe cannot be asked now.
pub async fn sync(domain: &Domain, stripe_invoice: &str) -> Result<()> {
    let invoice = match domain.payments.invoice(stripe_invoice).await {
        Ok(invoice) => invoice,
        Err(PaymentsError::Missing) => return remove_draft(domain, stripe_invoice).await,
        Err(error) => return Err(error.into()),
    };
    let consumer = sqlx::query_scalar!("SELECT id FROM consumers WHERE stripe_customer = $1", invoice.customer)
        .fetch_optional(&domain.pool)
        .await?;
    let Some(consumer) = consumer else {
        tracing::warn!(
            invoice = stripe_invoice,
            "an invoice of a customer that is none of ours"
        );
        return Ok(());
    };
    let mut tx = domain.pool.begin().await?;
    let Some(id) = upsert(domain, &mut tx, consumer, &invoice).await? else {
        return Ok(());
    };
    store_lines(&mut tx, id, &invoice).await?;
    // Those that differed too: what they lacked may be on this one, which came later.
    let open = sqlx::query_scalar!(
        "SELECT id FROM invoices WHERE consumer_id = $1 AND status <> 'draft'
            AND (id = $2 OR rated_usage_minor <> billed_usage_minor) ORDER BY created_at, id",
        consumer as ConsumerId,
        id as InvoiceId,
    )
    .fetch_all(&mut *tx)
    .await?;
    for id in open {
        compare(&mut tx, id, consumer).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Drafts can be deleted at Stripe, final invoices cannot.
async fn remove_draft(domain: &Domain, stripe_invoice: &str) -> Result<()> {
    sqlx::query!(
        "DELETE FROM invoices WHERE stripe_invoice = $1 AND status = 'draft'",
        stripe_invoice
    )
    .execute(&domain.pool)
    .await?;
    Ok(())
}

/// Writes the invoice; none when what is stored is newer, because two copies were under way at once.
async fn upsert(
    domain: &Domain,
    connection: &mut PgConnection,
    consumer: ConsumerId,
    invoice: &StripeInvoice,
) -> Result<Option<InvoiceId>> {
    let id = sqlx::query_scalar!(
        "INSERT INTO invoices AS i (id, consumer_id, stripe_invoice, stripe_subscription, number, status, currency, total_minor, amount_due_minor,
                                    amount_paid_minor, period_start, period_end, hosted_url, pdf_url, created_at,
                                    needs_confirmation)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
         ON CONFLICT (stripe_invoice) DO UPDATE SET
             number = excluded.number, status = excluded.status, total_minor = excluded.total_minor,
             amount_due_minor = excluded.amount_due_minor, amount_paid_minor = excluded.amount_paid_minor,
             period_start = excluded.period_start, period_end = excluded.period_end,
             hosted_url = excluded.hosted_url, pdf_url = excluded.pdf_url,
             needs_confirmation = excluded.needs_confirmation
         WHERE NOT (i.status <> 'draft' AND excluded.status = 'draft')
           AND NOT (i.status IN ('paid', 'void') AND excluded.status = 'open')
         RETURNING id",
        InvoiceId::new(invoice.created, &*domain.random) as InvoiceId,
        consumer as ConsumerId,
        invoice.id,
        invoice.subscription.as_deref(),
        invoice.number.as_deref(),
        invoice.status,
        invoice.total.currency as Currency,
        invoice.total.minor,
        invoice.amount_due.minor,
        invoice.amount_paid.minor,
        invoice.period.start,
        invoice.period.end,
        invoice.hosted_url.as_deref(),
        invoice.pdf_url.as_deref(),
        invoice.created,
        invoice.needs_confirmation,
    )
    .fetch_optional(connection)
    .await?;
    Ok(id)
}

/// A usage price: what it is the price of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    version: PlanVersionId,
    interval: Interval,
    meter: String,
}

/// Replaces the lines.
async fn store_lines(connection: &mut PgConnection, id: InvoiceId, invoice: &StripeInvoice) -> Result<()> {
    sqlx::query!("DELETE FROM invoice_lines WHERE invoice_id = $1", id as InvoiceId)
        .execute(&mut *connection)
        .await?;
    let usage = usage_prices(connection, &invoice.lines).await?;
    for (position, line) in (0i32..).zip(&invoice.lines) {
        let metered = line.price.as_ref().is_some_and(|price| usage.contains(price));
        sqlx::query!(
            "INSERT INTO invoice_lines (invoice_id, position, description, quantity, unit_minor, amount_minor, metered,
                                        stripe_price, period_start, period_end)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            id as InvoiceId,
            position,
            line.description,
            line.quantity
                .map(i64::try_from)
                .transpose()
                .map_err(DomainError::internal)?,
            line.unit_minor.map(|d| d.normalize().to_string()),
            line.amount.minor,
            metered,
            line.price.as_deref(),
            line.period.start,
            line.period.end,
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Which of the lines' prices are prices of usage.
async fn usage_prices(connection: &mut PgConnection, lines: &[StripeLine]) -> Result<BTreeSet<String>> {
    let prices: Vec<String> = lines.iter().filter_map(|l| l.price.clone()).collect();
    let rows = sqlx::query_scalar!(
        "SELECT stripe_price FROM plan_prices WHERE stripe_price = ANY($1) AND part <> ''",
        &prices,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Compares what Stripe billed for usage with our own rating of the same periods, and notes both.
async fn compare(connection: &mut PgConnection, id: InvoiceId, consumer: ConsumerId) -> Result<()> {
    let invoice = sqlx::query!(
        r#"SELECT stripe_invoice, currency AS "currency: Currency" FROM invoices WHERE id = $1"#,
        id as InvoiceId
    )
    .fetch_one(&mut *connection)
    .await?;
    let lines = sqlx::query!(
        "SELECT p.plan_version_id, p.interval, p.part, l.amount_minor, l.period_start, l.period_end
         FROM invoice_lines l JOIN plan_prices p ON p.stripe_price = l.stripe_price WHERE l.invoice_id = $1 AND l.metered",
        id as InvoiceId,
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut billed = Money::zero(invoice.currency);
    let mut expected: BTreeSet<(Part, Time)> = unlisted(connection, id).await?;
    for line in lines {
        let amount = Money {
            minor: line.amount_minor,
            currency: invoice.currency,
        };
        billed = cost::sum(invoice.currency, [billed, amount])?;
        let part = Part {
            version: line.plan_version_id,
            interval: line.interval,
            meter: line.part,
        };
        let covered = Period {
            start: line.period_start,
            end: line.period_end,
        };
        if let Some(start) = usage_period(connection, consumer, &part, covered).await? {
            expected.insert((part, start));
        }
    }
    let mut rated = Money::zero(invoice.currency);
    for (part, start) in expected {
        let amount = rated_part(connection, consumer, &part, start, invoice.currency).await?;
        rated = cost::sum(invoice.currency, [rated, amount])?;
    }
    if rated != billed {
        tracing::error!(
            invoice = invoice.stripe_invoice,
            rated_minor = rated.minor,
            billed_minor = billed.minor,
            "an invoice bills other usage than was rated"
        );
    }
    sqlx::query!(
        "UPDATE invoices SET rated_usage_minor = $2, billed_usage_minor = $3 WHERE id = $1",
        id as InvoiceId,
        rated.minor,
        billed.minor,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The start of the usage period that a line covers: the line may begin later, where a plan began in mid-period.
/// None where nothing was used in it: a period without usage has no row, and the one before is on an earlier invoice.
async fn usage_period(
    connection: &mut PgConnection,
    consumer: ConsumerId,
    part: &Part,
    covered: Period,
) -> Result<Option<Time>> {
    let start = sqlx::query_scalar!(
        "SELECT max(period_start) FROM usage_periods
         WHERE consumer_id = $1 AND environment = 'live' AND plan_version_id = $2 AND period_start < $3",
        consumer as ConsumerId,
        part.version.to_string(),
        covered.end,
    )
    .fetch_one(connection)
    .await?;
    Ok(start.filter(|start| Period::nth(*start, part.interval, 0).end > covered.start))
}

/// Usage that should be on this invoice and is on none: its period is the one that the invoice covers.
async fn unlisted(connection: &mut PgConnection, id: InvoiceId) -> Result<BTreeSet<(Part, Time)>> {
    let rows = sqlx::query!(
        "SELECT p.plan_version_id, p.interval, p.part, u.period_start
         FROM invoices n JOIN subscriptions s ON s.stripe_subscription = n.stripe_subscription
         JOIN usage_periods u ON u.subscription_id = s.id AND u.environment = 'live' AND u.units > 0
              AND u.period_start = n.period_start AND n.period_start < n.period_end
         JOIN meters m ON m.number = u.meter
         JOIN plan_prices p ON p.plan_version_id = u.plan_version_id AND p.interval = s.interval AND p.part = m.slug
         WHERE n.id = $1 AND NOT EXISTS (
             SELECT FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
             WHERE l.stripe_price = p.stripe_price AND i.consumer_id = u.consumer_id AND i.id <> n.id
               AND l.period_end > u.period_start AND l.period_start < n.period_end)",
        id as InvoiceId,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| {
            let part = Part {
                version: r.plan_version_id,
                interval: r.interval,
                meter: r.part,
            };
            (part, r.period_start)
        })
        .collect())
}

async fn rated_part(
    connection: &mut PgConnection,
    consumer: ConsumerId,
    part: &Part,
    period_start: Time,
    currency: Currency,
) -> Result<Money> {
    let units = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(u.units), 0)::bigint AS "units!" FROM usage_periods u JOIN meters m ON m.number = u.meter
           WHERE u.consumer_id = $1 AND u.environment = 'live' AND u.period_start = $2 AND u.plan_version_id = $3
             AND m.slug = $4"#,
        consumer as ConsumerId,
        period_start,
        part.version.to_string(),
        part.meter,
    )
    .fetch_one(&mut *connection)
    .await?;
    let terms = catalogue::terms(connection, part.version).await?;
    let meter = terms
        .offer(part.interval)
        .and_then(|o| o.meters.iter().find(|m| m.meter == part.meter));
    let Some(meter) = meter else {
        return Ok(Money::zero(currency));
    };
    let lines = rate(meter, u64::try_from(units).unwrap_or(0), currency).map_err(DomainError::internal)?;
    cost::sum(currency, lines.into_iter().map(|l| l.amount))
}
