// Forms that are wrong, late or sent twice: the focus goes to what is to be mended, and nothing typed is lost.
import type { Locator, Page } from "@playwright/test";
import { expect, test } from "../support.ts";
import { PASSWORD, fillLogin, freshEmail, signInAdmin, signUp } from "./steps.ts";

/** Texts that no short field takes. */
const LONG = "long ".repeat(2_000).trim();

/** Sends the form, and holds that the field is marked, described and in focus, with what was typed still in it. */
async function mendable(page: Page, field: Locator, button: string | RegExp, typed: string, kept = true): Promise<void> {
  await field.fill(typed);
  await page.getByRole("button", { name: button }).click();
  await expect(field).toHaveAttribute("aria-invalid", "true");
  await expect(field).toBeFocused();
  if (kept) await expect(field).toHaveValue(typed.trim());
  await expect(page.getByRole("alert")).toBeVisible();
}

for (const javaScriptEnabled of [true, false]) {
  test.describe(javaScriptEnabled ? "with JavaScript" : "without JavaScript", () => {
    test.use({ javaScriptEnabled });

    test("every form says what to mend, at its field", async ({ page }) => {
      await page.goto("/signup");
      await mendable(page, page.getByLabel("E-mail"), "Sign up", "");
      await page.getByLabel("E-mail").fill(freshEmail());
      await mendable(page, page.getByLabel("Password"), "Sign up", "short", false);
      await page.goto("/reset");
      await mendable(page, page.getByLabel("E-mail"), "Send the link", "");
      await signUp(page);
      await page.goto("/keys/new");
      for (const typed of ["", LONG]) await mendable(page, page.getByLabel("Name"), "Create key", typed);
      await page.goto("/budget");
      for (const typed of ["a lot", "-1", "1e9", "0.001", "99999999999999999999", "💶"]) {
        await mendable(page, page.getByLabel("Spend cap in USD"), "Save", typed);
      }
      await page.goto("/account");
      for (const typed of ["", LONG]) await mendable(page, page.getByLabel("Name", { exact: true }), "Rename", typed);
    });

    test("a form sent after the session has ended is kept, and goes through after a log-in", async ({ page }) => {
      const email = await signUp(page);
      await page.goto("/keys/new");
      await page.getByLabel("Name").fill("typed before 🔑 & \"after\"");
      await page.getByLabel("Expires").selectOption({ label: "In 90 days" });
      await page.context().clearCookies();
      await page.getByRole("button", { name: "Create key" }).click();
      await expect(page.getByRole("heading", { name: "You are logged out" })).toBeVisible();

      const [tab] = await Promise.all([page.context().waitForEvent("page"), page.getByRole("link", { name: "Log in in a new tab" }).click()]);
      await fillLogin(tab, email, PASSWORD);
      await expect(tab).toHaveURL("/home");
      await tab.close();
      await page.getByRole("button", { name: "Send it again" }).click();
      await expect(page.getByRole("heading", { name: "typed before 🔑 & \"after\"" })).toBeVisible();
      await page.goto("/keys");
      await expect(page.getByRole("row").filter({ hasText: "typed before" })).toHaveCount(1);
    });
  });
}

test("a name may be of any script", async ({ page }) => {
  await signUp(page);
  await page.goto("/account");
  const name = "Ünïcode 東京 🗝️ <b>& Söhne</b>";
  await page.getByLabel("Name", { exact: true }).fill(name);
  await page.getByRole("button", { name: "Rename" }).click();
  await expect(page.getByText("The account has its new name.")).toBeVisible();
  await expect(page.getByLabel("Name", { exact: true })).toHaveValue(name);
});

test("a double click creates one key", async ({ page }) => {
  await signUp(page);
  await page.goto("/keys/new");
  await page.getByLabel("Name").fill("twice");
  // Both clicks before the answer to the first.
  await page.getByRole("button", { name: "Create key" }).evaluate((button: HTMLButtonElement) => {
    button.click();
    button.click();
  });
  await expect(page.getByText("you will not see it again")).toBeVisible();
  await page.goto("/keys");
  await expect(page.getByRole("row").filter({ hasText: "twice" })).toHaveCount(1);
});

test("a form from elsewhere is refused in words, and changes nothing", async ({ page, baseURL }) => {
  await signUp(page);
  const answer = await page.request.post("/account/name", {
    headers: { origin: "http://evil.example", "sec-fetch-site": "cross-site", accept: "text/html" },
    form: { name: "Stolen" },
  });
  expect(answer.status()).toBe(403);
  expect(await answer.text()).toContain("Open the page here and send it again.");
  await page.goto(`${baseURL}/account`);
  await expect(page.getByLabel("Name", { exact: true })).not.toHaveValue("Stolen");
});

test("a file that is no catalogue, and a reason that is none", async ({ page }) => {
  await signInAdmin(page);
  await page.goto("/admin/plans/publish");
  for (const buffer of [Buffer.from(""), Buffer.from([0xff, 0xfe, 0x00]), Buffer.alloc(600 * 1024, "a")]) {
    await page.getByLabel("Catalogue file").setInputFiles({ name: "plans.toml", mimeType: "text/plain", buffer });
    await page.getByRole("button", { name: "See what it changes" }).click();
    await expect(page.getByRole("alert")).toBeVisible();
  }
  await page.goto("/admin/consumers?search=northwind");
  await page.locator("tbody a").first().click();
  for (const typed of ["", LONG]) await mendable(page, page.getByLabel("Reason"), "Suspend the account", typed);
});
