// From a stranger to a paying customer with a metered call, with JavaScript and without.
import { expect, test } from "../support.ts";
import { CARD, answers, call, createKey, payWith, signUp, toCheckout } from "./steps.ts";

for (const javaScriptEnabled of [true, false]) {
  test.describe(javaScriptEnabled ? "with JavaScript" : "without JavaScript", () => {
    test.use({ javaScriptEnabled });

    test("sign up, pay, create a key, call, see the usage", async ({ page }) => {
      await signUp(page);
      await expect(page.getByText("Three steps to the first call")).toBeVisible();

      await toCheckout(page, "Pro");
      await expect(page.getByText("$29.00").first()).toBeVisible();
      await payWith(page, CARD.pays);
      await expect(page.getByRole("heading", { name: "You are on Pro" })).toBeVisible({ timeout: 20_000 });
      expect(new URL(page.url()).pathname).toBe("/plan/return");

      await page.goto("/plan");
      await expect(page.getByRole("heading", { name: "Pro", level: 1 })).toBeVisible();
      await expect(page.locator(".badge", { hasText: "active" })).toBeVisible();

      await page.goto("/invoices");
      await expect(page.getByRole("row").filter({ hasText: "$29.00" }).filter({ hasText: "paid" })).toBeVisible();

      const key = await createKey(page, { name: "production" });
      expect(key).toMatch(/^tp_live_/);
      await page.goto("/keys");
      await expect(page.getByRole("row").filter({ hasText: "production" })).toContainText("never");
      await expect(page.locator("body")).not.toContainText(key);

      await answers(key, 200);
      await page.goto("/usage");
      const log = page.getByRole("group", { name: "Last requests" }).getByRole("row");
      const shown = async () => {
        if (!javaScriptEnabled) await page.reload();
        return log.filter({ hasText: "get-currency" }).count();
      };
      // With JavaScript the open page shows it by itself; the mark is gone after any reload.
      if (javaScriptEnabled) await page.evaluate(() => Object.assign(window, { mark: "same page" }));
      const answer = await call(key, "/v1/currencies/CHF");
      expect(answer.status).toBe(200);
      expect(((await answer.json()) as { code: string }).code).toBe("CHF");
      await expect.poll(shown, { timeout: 10_000 }).toBe(1);
      await expect(log.filter({ hasText: "get-currency" })).toContainText("200");
      if (javaScriptEnabled) {
        expect(await page.evaluate(() => (window as unknown as { mark?: string }).mark)).toBe("same page");
      }
      await expect(page.getByText(/^\d+ of 50,000 used, 49,\d+ left$/).first()).toBeVisible();

      await page.goto("/home");
      await expect(page.getByText("Three steps to the first call")).toHaveCount(0);
    });
  });
}
