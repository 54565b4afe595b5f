-- Usage that came after the invoice of its period was final is counted in a later period; so many of the units there.
ALTER TABLE usage_periods ADD COLUMN late_units bigint NOT NULL DEFAULT 0;

CREATE INDEX invoices_by_subscription ON invoices (stripe_subscription, period_start);

-- Whether Stripe would put usage of a period on an invoice, as far as the mirror knows: the period runs (and did so after
-- `since`, or the mirror is out of date), or its invoice is a draft. An invoice that covers no time is one of a change.
-- The last invoice of all may begin later than its period, where a plan began in between.
CREATE FUNCTION takes_usage(of_subscription text, of_period timestamptz, since timestamptz) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM subscriptions s WHERE s.id = of_subscription AND s.ended_at IS NULL
           AND (of_period > s.period_start OR (of_period = s.period_start AND s.period_end > since))
    ) OR EXISTS (
        SELECT FROM subscriptions s JOIN invoices i ON i.stripe_subscription = s.stripe_subscription
        WHERE s.id = of_subscription AND i.status = 'draft' AND i.period_start < i.period_end
          AND (i.period_start = of_period OR (i.period_start > of_period AND s.ended_at IS NOT NULL))
    )
$$;
