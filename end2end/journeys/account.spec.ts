// Into the account and out of it.
import { expect, test, watch } from "../support.ts";
import { PASSWORD, fillLogin, freshEmail, openMailedLink, signUp, signUpOnly } from "./steps.ts";

test("an account that waits for its confirmation may do nothing else", async ({ page }) => {
  const email = freshEmail();
  await signUpOnly(page, email);
  await page.goto("/keys");
  await expect(page).not.toHaveURL(/\/keys$/);
  await page.goto("/verify");
  await page.getByRole("button", { name: "Send it again" }).click();
  await expect(page.getByText("Sent again, unless")).toBeVisible();
});

test("a password too short is said at its field", async ({ page }) => {
  await page.goto("/signup");
  const email = freshEmail();
  await page.getByLabel("E-mail").fill(email);
  await page.getByLabel("Password").fill("short");
  await page.getByRole("button", { name: "Sign up" }).click();
  await expect(page.getByLabel("Password")).toHaveAttribute("aria-invalid", "true");
  await expect(page.getByLabel("E-mail")).toHaveValue(email);
});

test("an address that has an account gets the same answer as a new one", async ({ page, browser, complaints }) => {
  const email = await signUp(page);
  const other = await browser.newContext();
  watch(other, complaints);
  await signUpOnly(await other.newPage(), email);
  await other.close();
});

test("a deep link survives the log-in, also after a wrong password", async ({ page }) => {
  const email = await signUp(page);
  await page.getByRole("button", { name: "Log out" }).click();
  await expect(page.getByRole("link", { name: "Log in" })).toBeVisible();
  await page.goto("/usage?range=7d");
  await expect(page).toHaveURL(/\/login\?next=/);
  await fillLogin(page, email, "not the password");
  await expect(page.getByRole("alert")).toBeVisible();
  await expect(page.getByLabel("E-mail")).toHaveValue(email);
  await fillLogin(page, email, PASSWORD);
  await expect(page).toHaveURL("/usage?range=7d");
});

test("a link to another site is no place to go after log-in", async ({ page, baseURL }) => {
  const email = await signUp(page);
  await page.getByRole("button", { name: "Log out" }).click();
  await page.goto("/login?next=https://elsewhere.example/");
  await fillLogin(page, email, PASSWORD);
  await expect(page).toHaveURL(`${baseURL}/home`);
});

test("a lost password is set anew by mail, and the link works once", async ({ page }) => {
  const email = await signUp(page);
  await page.getByRole("button", { name: "Log out" }).click();
  await page.goto("/login");
  await page.getByRole("link", { name: "Forgotten your password?" }).click();
  await page.getByLabel("E-mail").fill(email);
  await page.getByRole("button", { name: "Send the link" }).click();
  await expect(page.getByRole("heading", { name: "Look in your mail" })).toBeVisible();
  await openMailedLink(page, email, "reset");
  const link = page.url();
  await page.getByLabel("New password").fill("another four words entirely");
  await page.getByRole("button", { name: "Set the password" }).click();
  await expect(page).toHaveURL("/home");
  await page.getByRole("button", { name: "Log out" }).click();

  expect((await page.goto(link))?.status()).toBe(410);
  await page.goto("/login");
  await fillLogin(page, email, PASSWORD);
  await expect(page.getByRole("alert")).toBeVisible();
  await fillLogin(page, email, "another four words entirely");
  await expect(page).toHaveURL("/home");
});

test("the list of sessions ends another one", async ({ page, browser, complaints }) => {
  const email = await signUp(page);
  const other = await browser.newContext();
  watch(other, complaints);
  const second = await other.newPage();
  await second.goto("/login");
  await fillLogin(second, email, PASSWORD);
  await expect(second).toHaveURL("/home");

  await page.goto("/account");
  const sessions = page.locator("section.card").filter({ has: page.getByRole("heading", { name: "Sessions" }) });
  await expect(sessions.locator("tbody tr")).toHaveCount(2);
  await expect(sessions.locator("tbody tr").filter({ hasText: "this one" })).toHaveCount(1);
  await sessions.getByRole("button", { name: /^End the session of/ }).click();
  await expect(page.getByText("The session is ended.")).toBeVisible();
  await expect(sessions.locator("tbody tr")).toHaveCount(1);
  await second.goto("/home");
  await expect(second).toHaveURL(/\/login/);
  await other.close();
});

test("name and password can be changed", async ({ page }) => {
  await signUp(page);
  await page.goto("/account");
  await page.getByLabel("Name", { exact: true }).fill("Journey & Sons");
  await page.getByRole("button", { name: "Rename" }).click();
  await expect(page.getByText("The account has its new name.")).toBeVisible();
  await expect(page.getByLabel("Name", { exact: true })).toHaveValue("Journey & Sons");

  await page.getByLabel("Present password").fill("not the password");
  await page.getByLabel("New password").fill("another four words entirely");
  await page.getByRole("button", { name: "Change the password" }).click();
  await expect(page.getByLabel("Present password")).toHaveAttribute("aria-invalid", "true");
  await page.getByLabel("Present password").fill(PASSWORD);
  await page.getByLabel("New password").fill("another four words entirely");
  await page.getByRole("button", { name: "Change the password" }).click();
  await expect(page.getByText("The password is changed")).toBeVisible();
});

test("somebody else's pages and the provider's are not there", async ({ page }) => {
  await signUp(page);
  for (const path of ["/admin", "/admin/consumers", "/admin/plans", "/admin/inbox", "/invoices/inv_000000000000"]) {
    expect((await page.goto(path))?.status(), path).toBe(404);
  }
});
