-- Whether a plan version has a price for a meter, in the interval that a subscription is billed by: usage of other meters is
-- counted and never sent to Stripe.
CREATE FUNCTION is_priced(of_subscription text, of_version text, of_meter smallint) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM subscriptions s
                   JOIN plan_prices p ON p.plan_version_id = of_version AND p.interval = s.interval
                   JOIN meters m ON m.slug = p.part
                   WHERE s.id = of_subscription AND m.number = of_meter)
$$;

-- No plan ever had a price for these, so Stripe refused, or would refuse, what there was nothing to bill for.
DELETE FROM meter_events e USING meters m
WHERE m.number = e.meter AND m.stripe_meter IS NULL AND e.state IN ('pending', 'refused');
DELETE FROM unbilled_units u USING meters m WHERE m.number = u.meter AND m.stripe_meter IS NULL;
