// Goes last and alone: a month passes for everybody, and the invoices come.
import type { Browser, Page } from "@playwright/test";
import { expect, test, watch, type Complaints } from "../support.ts";
import {
  CARD,
  STRIPE,
  answers,
  call,
  callBatch,
  createKey,
  figure,
  fillCard,
  signInAdmin,
  signUp,
  subscribe,
} from "./steps.ts";

// Time is everybody's: one after another.
test.describe.configure({ mode: "serial", timeout: 300_000 });

/** Time of the emulator, and with it of the program. */
async function advance(seconds: number): Promise<void> {
  const response = await fetch(`${STRIPE}/_control/advance`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ seconds }),
  });
  expect(response.status).toBe(200);
}

async function person(browser: Browser, complaints: Complaints, javaScriptEnabled: boolean): Promise<Page> {
  const context = await browser.newContext({ javaScriptEnabled });
  watch(context, complaints);
  const page = await context.newPage();
  await signUp(page);
  return page;
}

async function invoices(page: Page): Promise<void> {
  await page.goto("/invoices");
  await expect(page.getByRole("heading", { name: "Invoices", level: 1 })).toBeVisible();
}

test("a month later the invoices say what the running cost said", async ({ browser, complaints }) => {
  // Inside the allowance; and past it, with JavaScript and without.
  const pro = await person(browser, complaints, false);
  await subscribe(pro, "Pro");
  const proKey = await createKey(pro, { name: "pro" });
  await answers(proKey, 200);

  const past = await Promise.all([true, false].map((javaScriptEnabled) => person(browser, complaints, javaScriptEnabled)));
  const pastKeys: string[] = [];
  for (const mini of past) {
    await subscribe(mini, "Mini");
    const key = await createKey(mini, { name: "mini" });
    pastKeys.push(key);
    await answers(key, 200);
    for (let calls = 1; calls < 12; calls++) expect((await call(key)).status).toBe(200);
    expect((await callBatch(key)).status).toBe(200);

    // 12 calls and a batch of weight 10 are 22 units; 5 are included, 17 cost ten cents each.
    await expect(async () => {
      await mini.goto("/usage");
      await expect(mini.getByText("22 of 5 used").or(mini.getByText("22 of 5 used, 17 over")).first()).toBeVisible({ timeout: 500 });
    }).toPass({ timeout: 20_000 });
    expect(await figure(mini, "Next invoice")).toBe("$8.70");
    await invoices(mini);
    const estimate = mini.getByRole("group", { name: "The next invoice" });
    await expect(estimate).toContainText("$1.70");
    await expect(estimate.getByRole("row").filter({ hasText: "Total" })).toContainText("$8.70");
  }

  await advance(31 * 86_400);
  await advance(2 * 3_600);

  for (const mini of past) {
    await expect(async () => {
      await invoices(mini);
      const paid = mini.getByRole("row").filter({ hasText: "$8.70" }).filter({ hasText: "paid" });
      await expect(paid).toHaveCount(1, { timeout: 500 });
    }).toPass({ timeout: 60_000 });
    await mini.getByRole("row").filter({ hasText: "$8.70" }).getByRole("link").first().click();
    const lines = mini.getByRole("group", { name: "Lines of the invoice" });
    await expect(lines.getByRole("row").filter({ hasText: "$1.70" })).toContainText("17");
    await expect(lines.getByRole("row").filter({ hasText: "$7.00" })).toHaveCount(1);
    await expect(lines.getByRole("row").filter({ hasText: "Total" })).toContainText("$8.70");
    await expect(lines.getByRole("row").filter({ hasText: "To pay" })).toContainText("$0.00");
  }

  await expect(async () => {
    await invoices(pro);
    await expect(pro.getByRole("row").filter({ hasText: "$29.00" }).filter({ hasText: "paid" })).toHaveCount(2, { timeout: 500 });
  }).toPass({ timeout: 60_000 });

  // The new period begins with nothing used, and the keys go on.
  for (const key of [...pastKeys, proKey]) await answers(key, 200);
  for (const mini of past) {
    await expect(async () => {
      await mini.goto("/usage");
      await expect(mini.getByText(/^[12] of 5 used/).first()).toBeVisible({ timeout: 500 });
    }).toPass({ timeout: 20_000 });
  }

  const context = await browser.newContext();
  watch(context, complaints);
  const admin = await context.newPage();
  await signInAdmin(admin);
  await expect(admin.getByText("invoices bill other usage than was rated here")).toHaveCount(0);
  await expect(admin.getByText("Stripe refused")).toHaveCount(0);
});

test("a renewal that fails leaves time to mend it, then stops the keys; paying opens the same keys", async ({ page }) => {
  await signUp(page);
  await subscribe(page, "Pro");
  const key = await createKey(page, { name: "unlucky" });
  await answers(key, 200);

  // The card is exchanged for one that is saved gladly and pays nothing.
  await page.goto("/plan");
  await page.getByRole("button", { name: "Card and payments" }).click();
  await fillCard(page, CARD.failsLater);
  await page.getByRole("button", { name: "Save card" }).click();
  await expect(page.getByText("ending in 0341")).toBeVisible();

  await advance(31 * 86_400);
  await advance(2 * 3_600);
  await expect(async () => {
    await page.goto("/plan");
    await expect(page.getByText("A payment failed. Your keys go on working until")).toBeVisible({ timeout: 500 });
  }).toPass({ timeout: 30_000 });
  await answers(key, 200);

  // Past the grace period of the plan.
  await advance(8 * 86_400);
  await answers(key, 402);
  await page.goto("/plan");
  await expect(page.getByText("Your keys are refused because a payment failed.")).toBeVisible();

  await page.goto("/invoices");
  await page.getByRole("row").filter({ hasText: "to be paid" }).getByRole("link").first().click();
  await page.getByRole("link", { name: "Pay at Stripe" }).click();
  await fillCard(page, CARD.pays);
  await page.getByRole("button", { name: /^Pay \$29\.00$/ }).click();
  await answers(key, 200);
  await expect(async () => {
    await page.goto("/plan");
    await expect(page.locator(".badge", { hasText: "active" })).toBeVisible({ timeout: 500 });
  }).toPass({ timeout: 30_000 });
});
