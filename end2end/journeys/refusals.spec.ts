// The gateway says no, says why, and links to the page that mends it.
import type { Page } from "@playwright/test";
import { expect, test } from "../support.ts";
import { answers, call, createKey, signUp, subscribe, type Problem } from "./steps.ts";

/** Reads a refusal and opens its `type` and `link` as pages. */
async function explained(page: Page, response: Response, status: number, slug: string): Promise<Problem> {
  expect(response.status).toBe(status);
  expect(response.headers.get("content-type")).toBe("application/problem+json");
  const problem = (await response.json()) as Problem;
  expect(problem.status).toBe(status);
  expect(new URL(problem.type).pathname).toBe(`/problems/${slug}`);
  expect((await page.goto(problem.type))?.status()).toBe(200);
  await expect(page.getByRole("heading", { level: 1 })).toHaveText(problem.title);
  return problem;
}

test("a free plan may not use a paid feature", async ({ page }) => {
  await signUp(page);
  const key = await createKey(page, { name: "free" });
  await answers(key, 200);
  const problem = await explained(page, await call(key, "/v1/transitions"), 403, "feature-missing");
  expect(new URL(problem.link).pathname).toBe("/pricing");
  await page.getByRole("link", { name: "Compare plans" }).click();
  await expect(page.getByRole("button", { name: "Choose Pro", exact: true })).toBeVisible();
});

test("too many at once are told how long to wait", async ({ page }) => {
  await signUp(page);
  const key = await createKey(page, { name: "hasty" });
  await answers(key, 200);
  const all = await Promise.all(Array.from({ length: 60 }, () => call(key)));
  const refused = all.filter((response) => response.status !== 200);
  expect(refused.length).toBeGreaterThan(0);
  expect(all.length - refused.length).toBeGreaterThan(0);
  expect(Number(refused[0]!.headers.get("retry-after"))).toBeGreaterThan(0);
  await explained(page, refused[0]!, 429, "rate-limited");
});

test("the spend cap stops what would cost more, and raising it lets calls through again", async ({ page }) => {
  await signUp(page);
  await subscribe(page, "Mini");
  const key = await createKey(page, { name: "capped" });
  await page.goto("/budget");
  await page.getByLabel("Spend cap in USD").fill("a lot");
  await page.getByRole("button", { name: "Save" }).click();
  await expect(page.getByLabel("Spend cap in USD")).toHaveAttribute("aria-invalid", "true");
  await expect(page.getByLabel("Spend cap in USD")).toHaveValue("a lot");
  await page.getByLabel("Spend cap in USD").fill("0.20");
  await page.getByRole("button", { name: "Save" }).click();
  await expect(page.getByText("Saved. It holds from now on.")).toBeVisible();

  // Five are included, two cost ten cents each; the next would be the third.
  const seen: number[] = [];
  await expect.poll(async () => seen[seen.push((await call(key)).status) - 1], { timeout: 20_000 }).toBe(402);
  expect(seen.filter((status) => status === 200)).toHaveLength(7);
  const problem = await explained(page, await call(key), 402, "spend-cap-reached");
  expect(new URL(problem.link).pathname).toBe("/budget");

  await page.getByRole("link", { name: "Change the spend cap" }).click();
  await expect(async () => {
    await page.reload();
    await expect(page.getByText("$0.20 of $0.20 usage charges")).toBeVisible({ timeout: 500 });
  }).toPass();
  await page.getByLabel("Spend cap in USD").fill("5");
  await page.getByRole("button", { name: "Save" }).click();
  await answers(key, 200);
});

test("a key that is none, and no key at all", async ({ page }) => {
  const unknown = `tp_live_${"a".repeat(46)}`;
  await explained(page, await call(unknown), 401, "key-unknown");
  await explained(page, await fetch(`${new URL(process.env.GATEWAY_URL ?? "http://127.0.0.1:8080").origin}/v1/time`), 401, "key-missing");
});

test("a path that is none", async ({ page }) => {
  await signUp(page);
  const key = await createKey(page, { name: "lost" });
  await answers(key, 200);
  await explained(page, await call(key, "/v9/nothing"), 404, "no-route");
});

test("every problem has a page", async ({ page }) => {
  await page.goto("/problems");
  const links = await page.locator("main tbody a").evaluateAll((all) => all.map((a) => (a as HTMLAnchorElement).href));
  expect(links.length).toBeGreaterThan(20);
  for (const link of links) expect((await page.request.get(link)).status(), link).toBe(200);
});
