// Keys from birth to revocation, as the pages show them and as the gateway takes them.
import { expect, test } from "../support.ts";
import { answers, call, createKey, shownKey, signUp, type Problem } from "./steps.ts";

test("live and test keys, with expiry and routes of their own", async ({ page }) => {
  await signUp(page);
  const live = await createKey(page, { name: "web", expires: "In 30 days", routes: ["get-currency"] });
  const test = await createKey(page, { name: "ci", environment: "test" });
  expect(live).toMatch(/^tp_live_/);
  expect(test).toMatch(/^tp_test_/);

  await page.goto("/keys");
  const card = (name: string) => page.locator("section.card").filter({ has: page.getByRole("heading", { name }) });
  const web = card("Live keys").getByRole("row").filter({ hasText: "web" });
  await expect(web).toContainText("get-currency");
  await expect(web).toContainText(live.slice(-4));
  await expect(card("Test keys").getByRole("row").filter({ hasText: "ci" })).toContainText("all");
  await expect(card("Live keys").getByRole("row").filter({ hasText: "ci" })).toHaveCount(0);

  await answers(live, 200, "/v1/currencies/CHF");
  const refused = await call(live);
  expect(refused.status).toBe(403);
  expect(((await refused.json()) as Problem).type).toMatch(/\/problems\/insufficient-scope$/);
  await answers(test, 200);

  // Test calls are shown apart.
  await page.goto("/usage?shown=test");
  await expect(async () => {
    await page.reload();
    await expect(page.getByText(/^[1-9]\d* of 1,000 used/).first()).toBeVisible({ timeout: 500 });
  }).toPass();
  await expect(page.getByText("test calls are never billed")).toBeVisible();
  const log = page.getByRole("group", { name: "Last requests" }).getByRole("row");
  await expect(log.filter({ hasText: "ci …" }).first()).toContainText("test");
});

test("a form that is wrong keeps what was typed", async ({ page }) => {
  await signUp(page);
  await page.goto("/keys/new");
  await page.getByLabel("Expires").selectOption({ label: "In 90 days" });
  await page.getByRole("button", { name: "Create key" }).click();
  await expect(page.getByRole("alert")).toBeVisible();
  await expect(page.getByLabel("Name")).toHaveAttribute("aria-invalid", "true");
  await expect(page.getByLabel("Expires")).toHaveValue("90");
});

test("rotated with an overlap both work; rotated without, the old one stops", async ({ page }) => {
  await signUp(page);
  const first = await createKey(page, { name: "service" });
  await answers(first, 200);

  await page.goto("/keys");
  await page.getByRole("link", { name: "Rotate service" }).click();
  await page.getByLabel("The old key").selectOption({ label: "Both work for 1 hour" });
  await page.getByRole("button", { name: "Rotate key" }).click();
  const second = await shownKey(page);
  expect(second).not.toBe(first);
  await answers(second, 200);
  await answers(first, 200);

  await page.goto("/keys");
  await expect(page.getByRole("row").filter({ hasText: "service" }).filter({ hasText: "replaced, ends" })).toHaveCount(1);
  await page.getByRole("link", { name: "Rotate service" }).click();
  await page.getByLabel("The old key").selectOption({ label: "Stop the old key now" });
  await page.getByRole("button", { name: "Rotate key" }).click();
  const third = await shownKey(page);
  await answers(third, 200);
  await answers(second, 401);
});

test("a revoked key is refused", async ({ page }) => {
  await signUp(page);
  const key = await createKey(page, { name: "leaked" });
  await answers(key, 200);
  await page.goto("/keys");
  await page.getByRole("link", { name: "Revoke leaked" }).click();
  await expect(page.getByText("This cannot be undone.")).toBeVisible();
  await page.getByRole("button", { name: "Revoke key" }).click();
  await expect(page.getByRole("row").filter({ hasText: "leaked" })).toContainText("revoked");
  await answers(key, 401);
  await expect(page.getByRole("link", { name: "Revoke leaked" })).toHaveCount(0);
});
