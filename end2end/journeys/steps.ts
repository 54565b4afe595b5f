// What several journeys do: sign up, pay, make a key, call the gateway. Every journey makes its own account.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import type { Page } from "@playwright/test";
import { expect } from "../support.ts";

/** Where the gateway answers. */
export const GATEWAY = process.env.GATEWAY_URL ?? "http://127.0.0.1:8080";
/** Where the Stripe emulator answers. */
export const STRIPE = process.env.STRIPE_URL ?? "http://127.0.0.1:4020";
/** For every account here. */
export const PASSWORD = "four words in a row";
/** The demo's provider, of `end2end/atlas/demo.toml`. */
export const ADMIN = { email: "admin@atlas.example", password: "atlas-admin-demo" };

/** Test cards of Stripe. */
export const CARD = {
  pays: "4242 4242 4242 4242",
  declined: "4000 0000 0000 0002",
  asksOnce: "4000 0025 0000 3155",
  failsLater: "4000 0000 0000 0341",
};

/** An address that nobody has yet. */
export function freshEmail(): string {
  return `dev-${randomUUID()}@journey.example`;
}

/** Fills the sign-up form and stops at the page that waits for the confirmation. */
export async function signUpOnly(page: Page, email: string): Promise<void> {
  await page.goto("/signup");
  await page.getByLabel("E-mail").fill(email);
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Sign up" }).click();
  await expect(page).toHaveURL("/verify");
  await expect(page.getByText(email)).toBeVisible();
}

/** The newest link to `kind` that was mailed to the address. Mail is sent by a job, so it may take a moment. */
export async function mailedLink(page: Page, email: string, kind: "verify" | "reset"): Promise<string> {
  const letter = page.locator("section.card").filter({ hasText: email });
  const link = letter.locator(`a[href*="/${kind}/"]`).first();
  await expect(async () => {
    await page.goto("/development/mail");
    await expect(link).toBeVisible({ timeout: 1_000 });
  }).toPass({ timeout: 15_000 });
  return (await link.getAttribute("href"))!;
}

/** Opens that link as people do, from the mail. */
export async function openMailedLink(page: Page, email: string, kind: "verify" | "reset"): Promise<void> {
  const address = await mailedLink(page, email, kind);
  await page.locator(`a[href="${address}"]`).first().click();
}

/** A new account, confirmed and signed in, on the free plan; gives its address. */
export async function signUp(page: Page, email = freshEmail()): Promise<string> {
  await signUpOnly(page, email);
  await openMailedLink(page, email, "verify");
  await page.getByRole("button", { name: "Confirm this address" }).click();
  await expect(page).toHaveURL("/home");
  return email;
}

/** Fills the log-in form that is on the page. */
export async function fillLogin(page: Page, email: string, password: string): Promise<void> {
  await page.getByLabel("E-mail").fill(email);
  await page.getByLabel("Password", { exact: true }).fill(password);
  await page.getByRole("button", { name: "Log in" }).click();
}

/** Signs the provider in. */
export async function signInAdmin(page: Page): Promise<void> {
  await page.goto("/login");
  await fillLogin(page, ADMIN.email, ADMIN.password);
  await expect(page).toHaveURL("/admin");
}

/** Chooses a paid plan on the pricing page and stops on Stripe's page. */
export async function toCheckout(page: Page, plan: string): Promise<void> {
  await page.goto("/pricing");
  await page.getByRole("button", { name: `Choose ${plan}`, exact: true }).click();
  await expect(page.getByRole("heading", { name: "Checkout" })).toBeVisible();
}

/** Fills a card form of Stripe's pages. */
export async function fillCard(page: Page, card: string): Promise<void> {
  await page.getByLabel("Card number").fill(card);
  await page.getByLabel("Expiry").fill("12 / 34");
  await page.getByLabel("CVC").fill("123");
  await page.getByLabel("Name on card").fill("Ada Journey");
}

/** Pays on Stripe's page. */
export async function payWith(page: Page, card: string): Promise<void> {
  await fillCard(page, card);
  await page.getByRole("button", { name: /^Pay / }).click();
}

/** Subscribes to a paid plan with a card that works. */
export async function subscribe(page: Page, plan: string): Promise<void> {
  await toCheckout(page, plan);
  await payWith(page, CARD.pays);
  await expect(page.getByRole("heading", { name: `You are on ${plan}` })).toBeVisible({ timeout: 20_000 });
}

/** What a new key is made with; what is left out stays as the form proposes it. */
export type KeyWishes = { name: string; environment?: "live" | "test"; expires?: string; routes?: string[] };

/** Creates a key in the form and gives it. */
export async function createKey(page: Page, wishes: KeyWishes): Promise<string> {
  await page.goto("/keys/new");
  await page.getByLabel("Name").fill(wishes.name);
  if (wishes.environment) await page.getByLabel("Environment").selectOption(wishes.environment);
  if (wishes.expires) await page.getByLabel("Expires").selectOption({ label: wishes.expires });
  if (wishes.routes) {
    await page.getByLabel("May use").selectOption("some");
    await page.getByText("Choose routes", { exact: true }).click();
    for (const route of wishes.routes) await page.locator(`input[name="route-${route}"]`).check();
  }
  await page.getByRole("button", { name: "Create key" }).click();
  return shownKey(page);
}

/** The key on the page that shows it once. */
export async function shownKey(page: Page): Promise<string> {
  await expect(page.getByText("you will not see it again")).toBeVisible();
  return (await page.locator("#new-key").innerText()).trim();
}

/** Calls the gateway. */
export function call(key: string, path = "/v1/countries/CH", init: RequestInit = {}): Promise<Response> {
  return fetch(GATEWAY + path, { ...init, headers: { "x-api-key": key, ...init.headers } });
}

/** A call that counts ten units. */
export function callBatch(key: string): Promise<Response> {
  const body = JSON.stringify({ lookups: [{ country: "SG" }] });
  return call(key, "/v1/batch", { method: "POST", body, headers: { "content-type": "application/json" } });
}

/** Waits until the gateway answers a key with a status: changes reach it within a second. */
export async function answers(key: string, status: number, path?: string): Promise<void> {
  await expect.poll(async () => (await call(key, path)).status, { timeout: 15_000 }).toBe(status);
}

/** What the gateway says when it refuses. */
export type Problem = { type: string; title: string; status: number; detail: string; link: string; instance: string };

/** A number of the page by its name, such as `Due today`. */
export async function figure(page: Page, name: string | RegExp): Promise<string> {
  const stat = page.locator("dl.stat").filter({ has: page.locator("dt").filter({ hasText: name }) });
  return (await stat.locator("dd").first().innerText()).trim();
}

/** The demo's catalogue with two plans more: Mini, whose allowance is used up by five calls, and Nano, whose price is
 * another one whenever the journeys run, so that there is something to publish. */
export function catalogueWithMini(nanoPrice: string): string {
  // The demo's upstream listens where the stack put it: ten below Stripe.
  const upstream = `http://127.0.0.1:${Number(new URL(STRIPE).port) - 10}`;
  const file = readFileSync(new URL("../atlas/catalogue.toml", import.meta.url), "utf8");
  return `${file.replaceAll("http://127.0.0.1:4010", upstream)}
[[plans]]
slug = "mini"
name = "Mini"
tagline = "A handful of calls, then by use."
features = ["batch"]
rate_limit = { per_second = 50, burst = 100 }

[plans.month]
flat = "7.00"

[[plans.month.meters]]
meter = "calls"
included = 5
overage = { model = "graduated", tiers = [{ unit = "0.10" }] }

[[plans]]
slug = "nano"
name = "Nano"
tagline = "The journeys change its price."
rate_limit = { per_second = 5, burst = 10 }

[plans.month]
flat = "${nanoPrice}"
meters = [{ meter = "calls", included = 10 }]
`;
}
