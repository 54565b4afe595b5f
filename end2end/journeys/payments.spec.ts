// Cards that do not simply pay, with JavaScript and without.
import { expect, test } from "../support.ts";
import { CARD, payWith, signUp, toCheckout } from "./steps.ts";

for (const javaScriptEnabled of [true, false]) {
  test.describe(javaScriptEnabled ? "with JavaScript" : "without JavaScript", () => {
    test.use({ javaScriptEnabled });

    test("a declined card stays on Stripe's page, and another one pays", async ({ page }) => {
      await signUp(page);
      await toCheckout(page, "Pro");
      await payWith(page, CARD.declined);
      await expect(page.getByRole("alert")).toContainText("declined");
      await payWith(page, CARD.pays);
      await expect(page.getByRole("heading", { name: "You are on Pro" })).toBeVisible({ timeout: 20_000 });
    });

    test("3-D Secure that is completed pays", async ({ page }) => {
      await signUp(page);
      await toCheckout(page, "Pro");
      await payWith(page, CARD.asksOnce);
      await page.getByRole("button", { name: "Complete" }).click();
      await expect(page.getByRole("heading", { name: "You are on Pro" })).toBeVisible({ timeout: 20_000 });
    });

    test("3-D Secure that fails charges nothing, and the payment can be taken up again", async ({ page }) => {
      await signUp(page);
      await toCheckout(page, "Pro");
      const stripePage = page.url();
      await payWith(page, CARD.asksOnce);
      await page.getByRole("button", { name: "Fail" }).click();
      await expect(page.getByRole("alert")).toContainText("unable to authenticate");

      await page.getByRole("link", { name: "Cancel and go back" }).click();
      await expect(page.getByRole("heading", { name: "Not paid" })).toBeVisible();
      await page.goto("/plan");
      await expect(page.getByRole("heading", { name: "Free", level: 1 })).toBeVisible();
      await page.goto("/invoices");
      await expect(page.getByText("No invoices yet")).toBeVisible();

      // The open page is used again, so that nobody pays twice.
      await page.goto("/plan/cancelled?plan=pro&interval=month");
      await page.getByRole("button", { name: "Go on to pay" }).click();
      await expect(page).toHaveURL(stripePage);
      await payWith(page, CARD.pays);
      await expect(page.getByRole("heading", { name: "You are on Pro" })).toBeVisible({ timeout: 20_000 });
      await page.reload();
      await expect(page.getByRole("heading", { name: "You are on Pro" })).toBeVisible();
      await page.goto("/invoices");
      await expect(page.getByRole("row").filter({ hasText: "paid" })).toHaveCount(1);
    });
  });
}
