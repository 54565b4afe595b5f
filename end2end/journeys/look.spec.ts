// Every page: axe in light and dark, nothing cut on a telephone, and a picture of it.
import { expect, test } from "../support.ts";
import { look, lookHere } from "./looking.ts";
import { LOOKS, leftOut } from "./pages.ts";
import {
  ADMIN,
  answers,
  call,
  catalogueWithMini,
  createKey,
  fillLogin,
  freshEmail,
  mailedLink,
  signInAdmin,
  signUp,
  signUpOnly,
  subscribe,
} from "./steps.ts";

// Many pages each, on cores that others use too.
test.describe.configure({ timeout: 300_000 });
// States that only a form brings about are checked where they are.
test.use({ bypassCSP: true });

test("no page of the portal is left out", () => {
  expect(leftOut(), "pages of app/src/routes.rs that no look in pages.ts opens").toEqual([]);
});

test("pages for anybody", async ({ page }) => {
  await look(page, LOOKS.anybody);
});

test("the way in", async ({ page }) => {
  const email = freshEmail();
  await signUpOnly(page, email);
  const verify = await mailedLink(page, email, "verify");
  await page.goto("/reset");
  await page.getByLabel("E-mail").fill(email);
  await page.getByRole("button", { name: "Send the link" }).click();
  await lookHere(page, "reset-asked");
  const reset = await mailedLink(page, email, "reset");
  const { verify: waiting, "verify-sent": sent, "verify-link": link, ...others } = LOOKS.wayIn;
  const token = (address: string) => address.split("/").at(-1)!;
  await look(page, { verify: waiting, "verify-sent": sent, "verify-link": link }, { verify: token(verify) });
  // For the others nobody is signed in.
  await page.context().clearCookies();
  await look(page, others, { reset: token(reset) });
});

test("the console of a new account", async ({ page }) => {
  await signUp(page);
  await look(page, LOOKS.newAccount);
});

test("the console of a paying account", async ({ page }) => {
  await signUp(page);
  await subscribe(page, "Pro");
  const payment = new URL(page.url());
  const key = await createKey(page, { name: "production", expires: "In a year" });
  await lookHere(page, "key-shown-once");
  await createKey(page, { name: "ci", environment: "test", routes: ["get-country", "get-currency"] });
  await answers(key, 200);
  await Promise.all(["/v1/time", "/v1/countries", "/v1/nothing", "/v1/clock"].map((path) => call(key, path)));
  await page.goto("/keys");
  const id = (await page.getByRole("link", { name: "Rotate production" }).getAttribute("href"))!.split("/")[2]!;
  await page.goto("/invoices");
  const invoice = (await page.locator("tbody a[href^='/invoices/']").first().getAttribute("href"))!.split("/")[2]!;
  await look(page, LOOKS.paying, { payment: payment.pathname + payment.search, key: id, invoice });
});

test("an account with a past", async ({ page }) => {
  await page.goto("/login");
  await fillLogin(page, "mara@lumen.example", "mara-developer-demo");
  await expect(page).toHaveURL("/home");
  await look(page, LOOKS.past);
});

test("the provider's pages", async ({ page }) => {
  await signInAdmin(page);
  await page.goto("/admin/consumers?search=northwind");
  const consumer = (await page.locator("tbody a").first().getAttribute("href"))!.split("/")[3]!;
  await page.goto("/admin/inbox");
  const event = (await page.locator("tbody a").first().getAttribute("href"))!.split("/")[3]!;
  await look(page, LOOKS.provider, { consumer, event });
  await page.goto("/admin/plans/publish");
  const file = { name: "catalogue.toml", mimeType: "application/toml", buffer: Buffer.from(catalogueWithMini("9.99")) };
  await page.getByLabel("Catalogue file").setInputFiles(file);
  await page.getByRole("button", { name: "See what it changes" }).click();
  await expect(page.getByRole("button", { name: /^Publish/ })).toBeVisible();
  await lookHere(page, "admin-preview");
});

test("forms that say no", async ({ page }) => {
  const refused = async (path: string, button: string | RegExp, name: string) => {
    await page.goto(path);
    await page.getByRole("button", { name: button }).first().click();
    await expect(page.getByRole("alert").first()).toBeVisible();
    await lookHere(page, name);
  };
  await refused("/signup", "Sign up", "signup-refused");
  await refused("/reset", "Send the link", "reset-refused");
  await page.goto("/login");
  await fillLogin(page, ADMIN.email, "not the password");
  await lookHere(page, "login-refused");
  await signUp(page);
  await refused("/keys/new", "Create key", "key-refused");
  await refused("/account", "Change the password", "password-refused");
  await page.goto("/account");
  await page.getByLabel("Name", { exact: true }).fill("");
  await page.getByRole("button", { name: "Rename" }).click();
  await lookHere(page, "name-refused");
  await page.goto("/budget");
  await page.getByLabel("Spend cap in USD").fill("a lot");
  await page.getByRole("button", { name: "Save" }).click();
  await lookHere(page, "budget-refused");
  await page.goto("/keys/new");
  await page.getByLabel("Name").fill("typed before the session ended");
  await page.context().clearCookies();
  await page.getByRole("button", { name: "Create key" }).click();
  await lookHere(page, "signed-out");
});
