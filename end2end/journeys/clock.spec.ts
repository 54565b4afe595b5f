// Goes last and alone: a month passes for everybody, and the invoices come.
import type { Browser, Page } from "@playwright/test";
import { expect, test, watch, type Complaints } from "../support.ts";
import { STRIPE, answers, call, callBatch, createKey, figure, signInAdmin, signUp, subscribe } from "./steps.ts";

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

/** Signs in anew when the session is over, which lasts a day. */
async function invoices(page: Page): Promise<void> {
  await page.goto("/invoices");
  await expect(page.getByRole("heading", { name: "Invoices", level: 1 })).toBeVisible();
}

test("a month later the invoices say what the running cost said", async ({ browser, complaints }) => {
  test.setTimeout(300_000);
  // Inside the allowance, without JavaScript; and past it.
  const pro = await person(browser, complaints, false);
  await subscribe(pro, "Pro");
  const proKey = await createKey(pro, { name: "pro" });
  await answers(proKey, 200);

  const mini = await person(browser, complaints, true);
  await subscribe(mini, "Mini");
  const miniKey = await createKey(mini, { name: "mini" });
  await answers(miniKey, 200);
  for (let calls = 1; calls < 12; calls++) expect((await call(miniKey)).status).toBe(200);
  expect((await callBatch(miniKey)).status).toBe(200);

  // 12 calls and a batch of weight 10 are 22 units; 5 are included, 17 cost ten cents each.
  await mini.goto("/usage");
  await expect(mini.getByText("22 of 5 used").or(mini.getByText("22 of 5 used, 17 over")).first()).toBeVisible();
  expect(await figure(mini, "Next invoice")).toBe("$8.70");
  await invoices(mini);
  const estimate = mini.getByRole("group", { name: "The next invoice" });
  await expect(estimate).toContainText("$1.70");
  await expect(estimate.getByRole("row").filter({ hasText: "Total" })).toContainText("$8.70");

  await advance(31 * 86_400);
  await advance(2 * 3_600);

  await expect(async () => {
    await invoices(mini);
    await expect(mini.getByRole("row").filter({ hasText: "$8.70" }).filter({ hasText: "paid" })).toHaveCount(1, { timeout: 500 });
  }).toPass({ timeout: 60_000 });
  await mini.getByRole("row").filter({ hasText: "$8.70" }).getByRole("link").first().click();
  const lines = mini.getByRole("group", { name: "Lines of the invoice" });
  await expect(lines.getByRole("row").filter({ hasText: "$1.70" })).toContainText("17");
  await expect(lines.getByRole("row").filter({ hasText: "$7.00" })).toHaveCount(1);
  await expect(lines.getByRole("row").filter({ hasText: "Total" })).toContainText("$8.70");

  await expect(async () => {
    await invoices(pro);
    await expect(pro.getByRole("row").filter({ hasText: "$29.00" }).filter({ hasText: "paid" })).toHaveCount(2, { timeout: 500 });
  }).toPass({ timeout: 60_000 });

  // The new period begins with nothing used, and the keys go on.
  await answers(miniKey, 200);
  await answers(proKey, 200);
  await expect(async () => {
    await mini.goto("/usage");
    await expect(mini.getByText(/^[12] of 5 used/).first()).toBeVisible({ timeout: 500 });
  }).toPass({ timeout: 20_000 });

  const context = await browser.newContext();
  watch(context, complaints);
  const admin = await context.newPage();
  await signInAdmin(admin);
  await expect(admin.getByText("invoices bill other usage than was rated here")).toHaveCount(0);
  await expect(admin.getByText("Stripe refused")).toHaveCount(0);
});
