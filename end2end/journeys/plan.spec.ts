// Changing and ending a paid plan.
import { expect, test } from "../support.ts";
import { figure, signUp, subscribe } from "./steps.ts";

test("an upgrade shows what is due, then charges exactly that", async ({ page }) => {
  await signUp(page);
  await subscribe(page, "Pro");
  await page.goto("/plan");
  await page.getByRole("row").filter({ hasText: "Scale" }).filter({ hasText: "a month" }).getByRole("link").click();
  await expect(page.getByRole("heading", { name: "Pro to Scale" })).toBeVisible();
  const due = await figure(page, "Due today");
  expect(due).toMatch(/^\$2(69|70)\.\d\d$/);
  await page.getByRole("button", { name: `Pay ${due} and change to Scale` }).click();
  await expect(page.getByText("Changed. The new limits hold from now on.")).toBeVisible();
  await expect(page.getByRole("heading", { name: "Scale", level: 1 })).toBeVisible();
  await expect(async () => {
    await page.goto("/invoices");
    await expect(page.getByRole("row").filter({ hasText: due }).filter({ hasText: "paid" })).toHaveCount(1, { timeout: 1_000 });
  }).toPass({ timeout: 15_000 });
});

test("a downgrade waits for the period's end and can be taken back", async ({ page }) => {
  await signUp(page);
  await subscribe(page, "Scale");
  await page.goto("/plan");
  await page.getByRole("row").filter({ hasText: "Pro" }).filter({ hasText: "a month" }).getByRole("link").click();
  expect(await figure(page, "Due today")).toBe("$0.00");
  await page.getByRole("button", { name: /^Change to Pro on / }).click();
  await expect(page.getByText("Scheduled. Until then everything stays as it is.")).toBeVisible();
  await expect(page.getByRole("heading", { name: "Scale", level: 1 })).toBeVisible();
  await expect(page.getByText(/^Pro begins on /)).toBeVisible();
  await page.getByRole("button", { name: "Keep my plan" }).click();
  await expect(page.getByText("Taken back. Your plan stays as it is.")).toBeVisible();
  await expect(page.getByText(/^Pro begins on /)).toHaveCount(0);
});

test("a cancelled plan goes on until the period's end and can be resumed", async ({ page }) => {
  await signUp(page);
  await subscribe(page, "Pro");
  await page.goto("/plan");
  await page.getByRole("link", { name: "Cancel the plan" }).click();
  await page.getByRole("button", { name: /^Cancel Pro on / }).click();
  await expect(page.getByRole("alert")).toContainText("Type Pro to confirm.");
  await page.getByLabel("Plan", { exact: true }).fill("Pro");
  await page.getByRole("button", { name: /^Cancel Pro on / }).click();
  await expect(page.getByText("Cancelled for the end of the period.")).toBeVisible();
  await expect(page.locator(".badge", { hasText: "cancelled" })).toBeVisible();
  await page.getByRole("button", { name: "Resume" }).click();
  await expect(page.getByText("Resumed.")).toBeVisible();
  await expect(page.locator(".badge", { hasText: "active" })).toBeVisible();
});

test("the card and open payments are at Stripe, and there is a way back", async ({ page }) => {
  await signUp(page);
  await subscribe(page, "Pro");
  await page.goto("/plan");
  await page.getByRole("button", { name: "Card and payments" }).click();
  await expect(page.getByText("Stripe emulator.")).toBeVisible();
  await page.getByRole("link", { name: /return|back/i }).first().click();
  await expect(page).toHaveURL(/\/plan/);
});
