//! The longer requests: prices, Checkouts and changes of subscriptions.

use crate::read::Phase;
use domain::payments::{ItemChange, NewCheckout, NewPrice, NewPriceKind};
use model::Time;
use model::access::Interval;
use model::price::{Overage, TierModel};
use std::collections::HashMap;
use stripe_billing::invoice::{
    CreatePreviewInvoice, CreatePreviewInvoiceSubscriptionDetails,
    CreatePreviewInvoiceSubscriptionDetailsBillingCycleAnchor as PreviewAnchor,
    CreatePreviewInvoiceSubscriptionDetailsBillingCycleAnchorType as PreviewAnchorType,
    CreatePreviewInvoiceSubscriptionDetailsItems as PreviewItem,
    CreatePreviewInvoiceSubscriptionDetailsProrationBehavior as PreviewProration,
};
use stripe_billing::subscription::{
    UpdateSubscription, UpdateSubscriptionBillingCycleAnchor as Anchor,
    UpdateSubscriptionBillingCycleAnchorType as AnchorType, UpdateSubscriptionItems,
    UpdateSubscriptionPaymentBehavior as PaymentBehavior, UpdateSubscriptionProrationBehavior as Proration,
};
use stripe_billing::subscription_schedule::{
    UpdateSubscriptionSchedule, UpdateSubscriptionSchedulePhases as NewPhase,
    UpdateSubscriptionSchedulePhasesBillingCycleAnchor as PhaseAnchor,
    UpdateSubscriptionSchedulePhasesDuration as Duration, UpdateSubscriptionSchedulePhasesDurationInterval as Unit,
    UpdateSubscriptionSchedulePhasesEndDate as EndDate, UpdateSubscriptionSchedulePhasesItems as PhaseItem,
    UpdateSubscriptionSchedulePhasesProrationBehavior as PhaseProration,
    UpdateSubscriptionSchedulePhasesStartDate as StartDate,
};
use stripe_checkout::checkout_session::{CreateCheckoutSession, CreateCheckoutSessionLineItems as LineItem};
use stripe_product::price::{
    CreatePrice, CreatePriceRecurring, CreatePriceRecurringInterval, CreatePriceRecurringUsageType, CreatePriceTiers,
    CreatePriceTiersUpTo, CreatePriceTransformQuantity, CreatePriceTransformQuantityRound,
};
use stripe_shared::{CheckoutSessionMode, PriceBillingScheme, PriceTiersMode, SubscriptionScheduleEndBehavior};

pub(crate) fn price(new: &NewPrice) -> CreatePrice {
    let mut recurring = CreatePriceRecurring::new(match new.interval {
        Interval::Month => CreatePriceRecurringInterval::Month,
        Interval::Year => CreatePriceRecurringInterval::Year,
    });
    let currency: stripe_types::Currency = new
        .currency
        .code()
        .parse()
        .unwrap_or_else(|never: std::convert::Infallible| match never {});
    let price = CreatePrice::new(currency)
        .product(new.product.as_str())
        .nickname(new.nickname.as_str());
    match &new.kind {
        NewPriceKind::Flat(amount) => price.recurring(recurring).unit_amount(amount.minor),
        NewPriceKind::Metered {
            meter,
            included,
            overage,
        } => {
            recurring.usage_type = Some(CreatePriceRecurringUsageType::Metered);
            recurring.meter = Some(meter.clone());
            metered(price.recurring(recurring), *included, overage)
        }
    }
}

fn metered(price: CreatePrice, included: u64, overage: &Overage) -> CreatePrice {
    let mode = match overage.model {
        TierModel::Graduated => PriceTiersMode::Graduated,
        TierModel::Volume => PriceTiersMode::Volume,
        TierModel::Package => {
            let unit = overage.tiers.first().map(|t| t.unit_minor.normalize().to_string());
            return price.unit_amount_decimal(unit.unwrap_or_default()).transform_quantity(
                CreatePriceTransformQuantity::new(
                    i64::try_from(overage.package_units).unwrap_or(i64::MAX),
                    CreatePriceTransformQuantityRound::Up,
                ),
            );
        }
    };
    price
        .billing_scheme(PriceBillingScheme::Tiered)
        .tiers_mode(mode)
        .tiers(tiers(included, overage))
}

/// The allowance as the first tier at price zero, then the overage's tiers.
fn tiers(included: u64, overage: &Overage) -> Vec<CreatePriceTiers> {
    let up_to = |units: u64| CreatePriceTiersUpTo::I64(i64::try_from(units).unwrap_or(i64::MAX));
    let tier = |up_to, unit: String| CreatePriceTiers {
        unit_amount_decimal: Some(unit),
        ..CreatePriceTiers::new(up_to)
    };
    let allowance = (included > 0).then(|| tier(up_to(included), "0".to_owned()));
    allowance
        .into_iter()
        .chain(overage.tiers.iter().map(|t| {
            let end = t.up_to.map_or(CreatePriceTiersUpTo::Inf, up_to);
            tier(end, t.unit_minor.normalize().to_string())
        }))
        .collect()
}

pub(crate) fn checkout(new: &NewCheckout) -> CreateCheckoutSession {
    let line = |price: &String, quantity| LineItem {
        price: Some(price.clone()),
        quantity,
        ..LineItem::new()
    };
    let flat = new.flat_prices.iter().map(|p| line(p, Some(1)));
    let metered = new.metered_prices.iter().map(|p| line(p, None));
    CreateCheckoutSession::new()
        .mode(CheckoutSessionMode::Subscription)
        .customer(new.customer.as_str())
        .client_reference_id(new.consumer.to_string())
        .line_items(flat.chain(metered).collect::<Vec<_>>())
        .success_url(new.success_url.as_str())
        .cancel_url(new.cancel_url.as_str())
}

pub(crate) fn change_now(subscription: &str, change: &ItemChange, at: Time) -> UpdateSubscription {
    let remove = change.remove.iter().map(|id| UpdateSubscriptionItems {
        id: Some(id.clone()),
        deleted: Some(true),
        ..UpdateSubscriptionItems::new()
    });
    let add = |price: &String, quantity| UpdateSubscriptionItems {
        price: Some(price.clone()),
        quantity,
        ..UpdateSubscriptionItems::new()
    };
    let flat = change.add_flat.iter().map(|p| add(p, Some(1)));
    let metered = change.add_metered.iter().map(|p| add(p, None));
    let update = UpdateSubscription::new(subscription)
        .items(remove.chain(flat).chain(metered).collect::<Vec<_>>())
        // The new plan holds only once it is paid for.
        .payment_behavior(PaymentBehavior::PendingIfIncomplete)
        .proration_behavior(Proration::AlwaysInvoice)
        .proration_date(at.unix_s());
    if change.restart_period {
        update.billing_cycle_anchor(Anchor::new(AnchorType::Now))
    } else {
        update
    }
}

pub(crate) fn preview_change(subscription: &str, change: &ItemChange, at: Time) -> CreatePreviewInvoice {
    let remove = change.remove.iter().map(|id| PreviewItem {
        id: Some(id.clone()),
        deleted: Some(true),
        ..PreviewItem::new()
    });
    let add = |price: &String, quantity| PreviewItem {
        price: Some(price.clone()),
        quantity,
        ..PreviewItem::new()
    };
    let flat = change.add_flat.iter().map(|p| add(p, Some(1)));
    let metered = change.add_metered.iter().map(|p| add(p, None));
    let details = CreatePreviewInvoiceSubscriptionDetails {
        items: Some(remove.chain(flat).chain(metered).collect()),
        proration_behavior: Some(PreviewProration::AlwaysInvoice),
        proration_date: Some(at.unix_s()),
        billing_cycle_anchor: change
            .restart_period
            .then(|| PreviewAnchor::new(PreviewAnchorType::Now)),
        ..CreatePreviewInvoiceSubscriptionDetails::new()
    };
    CreatePreviewInvoice::new()
        .subscription(subscription)
        .subscription_details(details)
}

/// The running phase as it is, then the new prices for one period; after that the schedule lets go.
pub(crate) fn phases(schedule: &str, running: &Phase, change: &ItemChange) -> UpdateSubscriptionSchedule {
    let item = |price: &String, quantity| PhaseItem {
        price: Some(price.clone()),
        quantity,
        ..PhaseItem::new()
    };
    let old: Vec<PhaseItem> = running.items.iter().map(|(p, quantity)| item(p, *quantity)).collect();
    let flat = change.add_flat.iter().map(|p| item(p, Some(1)));
    let metered = change.add_metered.iter().map(|p| item(p, None));
    let unit = match change.interval {
        Interval::Month => Unit::Month,
        Interval::Year => Unit::Year,
    };
    let first = NewPhase {
        start_date: Some(StartDate::Timestamp(running.start)),
        end_date: Some(EndDate::Timestamp(running.end)),
        proration_behavior: Some(PhaseProration::None),
        ..NewPhase::new(old)
    };
    let second = NewPhase {
        duration: Some(Duration {
            interval_count: Some(1),
            ..Duration::new(unit)
        }),
        billing_cycle_anchor: change.restart_period.then_some(PhaseAnchor::PhaseStart),
        proration_behavior: Some(PhaseProration::None),
        ..NewPhase::new(flat.chain(metered).collect::<Vec<_>>())
    };
    UpdateSubscriptionSchedule::new(schedule)
        .end_behavior(SubscriptionScheduleEndBehavior::Release)
        .phases(vec![first, second])
}

pub(crate) fn payload(customer: &str, units: u64) -> HashMap<String, String> {
    HashMap::from([
        ("stripe_customer_id".to_owned(), customer.to_owned()),
        ("value".to_owned(), units.to_string()),
    ])
}
