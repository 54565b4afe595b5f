// Goes first: the provider publishes a catalogue, with the plan on which other journeys use up their allowance.
import { expect, test } from "../support.ts";
import { catalogueWithMini, signInAdmin } from "./steps.ts";

test("the provider looks at what a catalogue changes and publishes it", async ({ page }) => {
  const price = `1.${String(Date.now() % 100).padStart(2, "0")}`;
  await signInAdmin(page);
  await page.getByRole("link", { name: "Plans", exact: true }).click();
  await page.getByRole("link", { name: "Publish a catalogue" }).click();

  await page.getByLabel("Catalogue file").setInputFiles({
    name: "wrong.toml",
    mimeType: "application/toml",
    buffer: Buffer.from("[product]\nslug = 7\n"),
  });
  await page.getByRole("button", { name: "See what it changes" }).click();
  await expect(page.getByRole("alert")).toBeVisible();

  await page.getByLabel("Catalogue file").setInputFiles({
    name: "catalogue.toml",
    mimeType: "application/toml",
    buffer: Buffer.from(catalogueWithMini(price)),
  });
  await page.getByRole("button", { name: "See what it changes" }).click();
  const nano = page.locator("section.card").filter({ hasText: /nano/i });
  await expect(nano).toContainText(`$${price}`);
  await page.getByRole("button", { name: /^Publish/ }).click();
  await expect(page.getByText(/^Published[.:]/)).toBeVisible();

  // The prices are made at Stripe by a job.
  for (const name of ["Mini", "Nano"]) {
    const versions = page.locator("section.card").filter({ has: page.getByRole("heading", { name, exact: true }) });
    await expect(async () => {
      await page.reload();
      await expect(versions.locator("tbody tr").first()).toContainText("ready", { timeout: 1_000 });
    }).toPass({ timeout: 20_000 });
  }
  await page.goto("/pricing");
  await expect(page.getByRole("heading", { name: "Mini" })).toBeVisible();
  await expect(page.getByText(`$${price}`).first()).toBeVisible();
});
