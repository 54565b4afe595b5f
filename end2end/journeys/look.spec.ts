// Every page: axe in light and dark, nothing wider than a telephone, and a picture of it.
import type { Page } from "@playwright/test";
import { axe, expect, screenshot, test } from "../support.ts";
import { answers, call, catalogueWithMini, createKey, fillLogin, signInAdmin, signUp, subscribe } from "./steps.ts";

/** The narrowest telephone that is common, in CSS pixels. */
const NARROW = { width: 375, height: 812 };

/** Looks at the addresses one after another and tells everything that is wrong at once. */
async function look(page: Page, pages: Record<string, string>): Promise<void> {
  const faults: string[] = [];
  for (const [name, path] of Object.entries(pages)) {
    await page.goto(path);
    await lookHere(page, name, faults);
  }
  expect(faults).toEqual([]);
}

async function lookHere(page: Page, name: string, faults: string[], axeToo = true): Promise<void> {
  const wide = page.viewportSize()!;
  await screenshot(page, name);
  await page.setViewportSize(NARROW);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  if (width > NARROW.width) {
    const culprits = await page.evaluate(
      (limit) =>
        [...document.querySelectorAll("body *")]
          .filter((element) => element.getBoundingClientRect().right > limit + 1 && !element.closest(".table-wrap, .code, .chart-wrap"))
          .map((element) => `${element.tagName.toLowerCase()}.${element.getAttribute("class") ?? ""}`)
          .slice(0, 4),
      NARROW.width,
    );
    faults.push(`${name}: ${width} px wide on a telephone: ${culprits.join(", ")}`);
  }
  await screenshot(page, `${name}-narrow`, ["light"]);
  await page.setViewportSize(wide);
  if (axeToo) await axe(page).catch((error: Error) => faults.push(`${name}: ${error.message}`));
}

// Many pages each, on cores that others use too.
test.describe.configure({ timeout: 300_000 });

test("pages for anybody", async ({ page }) => {
  await look(page, {
    start: "/",
    pricing: "/pricing",
    "pricing-yearly": "/pricing?interval=year&calls=250000",
    reference: "/docs",
    problems: "/problems",
    problem: "/problems/rate-limited",
    missing: "/no/such/page",
  });
});

test("the way in", async ({ page }) => {
  await look(page, { signup: "/signup", login: "/login?next=/usage", reset: "/reset" });
  const faults: string[] = [];
  await page.goto("/signup");
  await page.getByRole("button", { name: "Sign up" }).click();
  await expect(page.getByRole("alert")).toBeVisible();
  await lookHere(page, "signup-refused", faults, false);
  expect(faults).toEqual([]);
});

test("the console of a new account", async ({ page }) => {
  await signUp(page);
  await look(page, {
    "empty-home": "/home",
    "empty-keys": "/keys",
    "empty-key-new": "/keys/new",
    "empty-usage": "/usage",
    "empty-plan": "/plan",
    "empty-invoices": "/invoices",
    "empty-budget": "/budget",
    account: "/account",
    "payment-not-made": "/plan/cancelled?plan=pro&interval=month",
  });
});

test("the console of a paying account", async ({ page }) => {
  await signUp(page);
  await subscribe(page, "Pro");
  const payment = new URL(page.url());
  const key = await createKey(page, { name: "production", expires: "In a year" });
  const faults: string[] = [];
  await lookHere(page, "key-shown-once", faults, false);
  expect(faults).toEqual([]);
  await createKey(page, { name: "ci", environment: "test" });
  await answers(key, 200);
  await Promise.all(["/v1/time", "/v1/countries", "/v1/nothing", "/v1/clock"].map((path) => call(key, path)));
  await page.goto("/keys");
  const id = (await page.getByRole("link", { name: "Rotate production" }).getAttribute("href"))!.split("/")[2]!;
  await page.goto("/invoices");
  const invoice = (await page.locator("tbody a[href^='/invoices/']").first().getAttribute("href"))!;
  await look(page, {
    "paid-return": payment.pathname + payment.search,
    "paid-home": "/home",
    "paid-keys": "/keys",
    "paid-key-rotate": `/keys/${id}/rotate`,
    "paid-key-revoke": `/keys/${id}/revoke`,
    "paid-usage": "/usage",
    "paid-usage-by-key": "/usage?shown=live&range=30d&group=key",
    "paid-plan": "/plan",
    "paid-plan-change": "/plan/change?plan=scale&interval=month",
    "paid-plan-cancel": "/plan/cancel",
    "paid-pricing": "/pricing",
    "paid-invoices": "/invoices",
    "paid-invoice": invoice,
    "paid-budget": "/budget",
  });
});

test("an account with a past", async ({ page }) => {
  await page.goto("/login");
  await fillLogin(page, "mara@lumen.example", "mara-developer-demo");
  await expect(page).toHaveURL("/home");
  await look(page, { "past-home": "/home", "past-usage": "/usage", "past-keys": "/keys" });
});

test("the provider's pages", async ({ page }) => {
  await signInAdmin(page);
  await page.goto("/admin/consumers?search=northwind");
  const consumer = (await page.locator("tbody a").first().getAttribute("href"))!;
  await page.goto("/admin/inbox");
  const event = (await page.locator("tbody a").first().getAttribute("href"))!;
  await look(page, {
    "admin-overview": "/admin",
    "admin-consumers": "/admin/consumers",
    "admin-consumers-none": "/admin/consumers?search=nobody-has-this-name",
    "admin-consumer": consumer,
    "admin-plans": "/admin/plans",
    "admin-publish": "/admin/plans/publish",
    "admin-inbox": "/admin/inbox",
    "admin-event": event,
  });
  await page.goto("/admin/plans/publish");
  const file = { name: "catalogue.toml", mimeType: "application/toml", buffer: Buffer.from(catalogueWithMini("9.99")) };
  await page.getByLabel("Catalogue file").setInputFiles(file);
  await page.getByRole("button", { name: "See what it changes" }).click();
  await expect(page.getByRole("button", { name: /^Publish/ })).toBeVisible();
  const faults: string[] = [];
  await lookHere(page, "admin-preview", faults, false);
  expect(faults).toEqual([]);
});
