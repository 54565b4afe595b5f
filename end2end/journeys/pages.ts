// Every page of the portal and the states it is looked at in. The table of addresses is read from the portal's own
// source, so a page that nobody looks at fails a test.
import { readFileSync } from "node:fs";

/** Names of pictures and the addresses behind them; what stands in braces is filled in when it is known. */
export type Looks = Record<string, string>;

export const LOOKS = {
  anybody: {
    start: "/",
    pricing: "/pricing",
    "pricing-yearly": "/pricing?interval=year&calls=250000",
    reference: "/docs",
    problems: "/problems",
    problem: "/problems/rate-limited",
    missing: "/no/such/page",
    outbox: "/development/mail",
  },
  wayIn: {
    signup: "/signup",
    login: "/login?next=/usage",
    reset: "/reset",
    "reset-link": "/reset/{reset}",
    "reset-spent": "/reset/no-such-token",
    verify: "/verify",
    "verify-sent": "/verify?sent=1",
    "verify-link": "/verify/{verify}",
  },
  firstStart: { setup: "/admin/setup?token={token}" },
  newAccount: {
    "empty-home": "/home",
    "empty-keys": "/keys",
    "empty-key-new": "/keys/new",
    "empty-usage": "/usage",
    "empty-plan": "/plan",
    "empty-invoices": "/invoices",
    "empty-budget": "/budget",
    account: "/account",
    "payment-not-made": "/plan/cancelled?plan=pro&interval=month",
    "missing-signed-in": "/invoices/inv_000000000000000000000000",
    "plan-nothing-to-cancel": "/plan/cancel",
  },
  paying: {
    "paid-return": "{payment}",
    "paid-home": "/home",
    "paid-keys": "/keys",
    "paid-key-rotate": "/keys/{key}/rotate",
    "paid-key-revoke": "/keys/{key}/revoke",
    "paid-key-limits": "/keys/{key}/limits",
    "paid-usage": "/usage",
    "paid-usage-by-key": "/usage?shown=live&range=30d&group=key",
    "paid-usage-filtered": "/usage?class=5&route=get-country",
    "paid-usage-test": "/usage?shown=test",
    "paid-plan": "/plan",
    "paid-plan-change": "/plan/change?plan=scale&interval=month",
    "paid-plan-cancel": "/plan/cancel",
    "paid-pricing": "/pricing",
    "paid-invoices": "/invoices",
    "paid-invoice": "/invoices/{invoice}",
    "paid-budget": "/budget",
    "paid-account": "/account",
  },
  past: { "past-home": "/home", "past-usage": "/usage?range=30d", "past-keys": "/keys" },
  provider: {
    "admin-overview": "/admin",
    "admin-consumers": "/admin/consumers",
    "admin-consumers-none": "/admin/consumers?search=nobody-has-this-name",
    "admin-consumer": "/admin/consumers/{consumer}",
    "admin-plans": "/admin/plans",
    "admin-publish": "/admin/plans/publish",
    "admin-inbox": "/admin/inbox",
    "admin-inbox-none": "/admin/inbox?state=dead",
    "admin-event": "/admin/inbox/{event}",
    "admin-consumer-features": "/admin/consumers/{consumer}/features",
    "admin-cache": "/admin/cache",
    "admin-account": "/account",
  },
} satisfies Record<string, Looks>;

/** Addresses that a form of another page leads to only by way of Stripe. */
const BY_STRIPE: Record<string, string> = { "{payment}": "/plan/return" };

/** The pages of the portal's table: GET addresses that give a page, such as `/keys/{id}/rotate`. */
export function pagesOfTable(): string[] {
  const source = readFileSync(new URL("../../app/src/routes.rs", import.meta.url), "utf8");
  const pages = [...source.matchAll(/\.page\(\s*"([^"]+)"/g)].map((found) => found[1]!);
  // Server functions give data, not pages.
  return pages.filter((path) => !path.startsWith("/_pages/"));
}

/** The pages of the table that no look opens. */
export function leftOut(): string[] {
  const looked = Object.values(LOOKS).flatMap((looks) => Object.values(looks as Looks));
  const paths = looked.map((address) => (BY_STRIPE[address] ?? address).split("?")[0]!);
  return pagesOfTable().filter((page) => !paths.some((path) => isOf(path, page)));
}

/** Whether a path is one of a page, whose address may have parts in braces. */
function isOf(path: string, page: string): boolean {
  const [parts, wanted] = [path.split("/"), page.split("/")];
  return (
    parts.length === wanted.length && wanted.every((part, i) => (part.startsWith("{") ? parts[i] !== "" : part === parts[i]))
  );
}

/** An address with its gaps filled. */
export function filled(address: string, gaps: Record<string, string>): string {
  return address.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = gaps[name];
    if (value === undefined) throw new Error(`nothing fills {${name}} in ${address}`);
    return value;
  });
}
