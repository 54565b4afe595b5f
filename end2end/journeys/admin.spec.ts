// The provider's pages.
import { expect, test, watch } from "../support.ts";
import { answers, call, createKey, signInAdmin, signUp, subscribe, type Problem } from "./steps.ts";

test("the overview counts consumers and money", async ({ page }) => {
  await signInAdmin(page);
  await expect(page.getByRole("heading", { name: "Overview", level: 1 })).toBeVisible();
  for (const name of ["Consumers", "Active subscriptions", "MRR", "Requests today"]) {
    await expect(page.locator("dl.stat dt", { hasText: name })).toBeVisible();
  }
  await expect(page.getByRole("group", { name: "Subscriptions by plan" }).getByRole("row")).not.toHaveCount(0);
});

test("a suspended consumer's keys are refused until it is restored", async ({ page, browser, complaints }) => {
  const email = await signUp(page);
  const key = await createKey(page, { name: "mine" });
  await answers(key, 200);

  const context = await browser.newContext();
  watch(context, complaints);
  const admin = await context.newPage();
  await signInAdmin(admin);
  await admin.getByRole("link", { name: "Consumers", exact: true }).click();
  await admin.getByLabel("Name, address or id").fill(email);
  await admin.getByRole("button", { name: "Search" }).click();
  const rows = admin.locator("tbody tr");
  await expect(rows).toHaveCount(1);
  await rows.getByRole("link").click();
  await admin.getByLabel("Reason").fill("Too many journeys.");
  await admin.getByRole("button", { name: "Suspend the account" }).click();
  await expect(admin.getByText(/^Suspended since .* Too many journeys\./)).toBeVisible();
  await answers(key, 403);
  const problem = (await (await call(key)).json()) as Problem;
  expect(problem.type).toMatch(/\/problems\/suspended$/);

  await admin.getByRole("button", { name: "Restore the account" }).click();
  await expect(admin.getByRole("button", { name: "Suspend the account" })).toBeVisible();
  await answers(key, 200);
  await expect(admin.locator("body")).not.toContainText(key);
  await context.close();
});

test("a payment shows in the Stripe inbox and can be handled again", async ({ page, browser, complaints }) => {
  await signUp(page);
  await subscribe(page, "Pro");
  const context = await browser.newContext();
  watch(context, complaints);
  const admin = await context.newPage();
  await signInAdmin(admin);
  await admin.goto("/admin/inbox?state=done");
  const events = admin.locator("tbody tr");
  await expect(events.filter({ hasText: "checkout.session.completed" }).first()).toBeVisible();
  await events.filter({ hasText: "checkout.session.completed" }).first().getByRole("link").click();
  await admin.getByRole("button", { name: "Handle again" }).click();
  await expect(admin.getByText("It is handled again within seconds.")).toBeVisible();
  await expect(async () => {
    await admin.reload();
    await expect(admin.locator(".badge", { hasText: "done" })).toBeVisible({ timeout: 500 });
  }).toPass({ timeout: 15_000 });

  // Handled twice, it changed nothing.
  await page.goto("/plan");
  await expect(page.getByRole("heading", { name: "Pro", level: 1 })).toBeVisible();
  await page.goto("/invoices");
  await expect(page.getByRole("row").filter({ hasText: "paid" })).toHaveCount(1);
  await context.close();
});
