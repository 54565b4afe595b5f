// What every journey uses: a page that may not fail in silence, the accessibility check, screenshots.
import { test as base, expect, type Browser, type BrowserContext, type Page } from "@playwright/test";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import type { AxeResults } from "axe-core";

export { expect };

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** What a page complained about, in order. */
export type Complaints = string[];

/** Watches every page that the context opens from now on: for journeys that make a second context. */
export function watch(context: BrowserContext, complaints: Complaints): void {
  context.on("page", (page) => listen(page, complaints));
}

/** Listens to a page; `complaints` grows with everything that should not happen. */
function listen(page: Page, complaints: Complaints): void {
  page.on("console", (message) => {
    // Chromium logs failed requests too. Those of this site are judged below, where it is known what was asked for: a
    // form that comes back with 422 is no fault, a missing script is.
    const judged = message.text().startsWith("Failed to load resource") && sameOrigin(page, message.location().url);
    if (message.type() === "error" && !judged) complaints.push(`console: ${message.text()} (${message.location().url})`);
  });
  page.on("pageerror", (error) => complaints.push(`page error: ${error.stack ?? error.message}`));
  page.on("requestfailed", (request) => {
    // Leaving a page aborts what it was still loading.
    const aborted = request.failure()?.errorText === "net::ERR_ABORTED";
    if (sameOrigin(page, request.url()) && !aborted) {
      complaints.push(`request failed: ${request.url()}: ${request.failure()?.errorText}`);
    }
  });
  page.on("response", (response) => {
    const asset = response.request().resourceType() !== "document";
    if (asset && response.status() >= 400 && sameOrigin(page, response.url())) {
      complaints.push(`asset: ${response.status()} ${response.url()}`);
    }
  });
}

function sameOrigin(page: Page, address: string): boolean {
  const here = page.url();
  if (here === "about:blank") return true;
  return URL.canParse(address) && new URL(address).origin === new URL(here).origin;
}

type Fixtures = {
  /** What the pages of the test have complained about so far; a journey that expects one removes it. */
  complaints: Complaints;
};

/** A test whose pages, popups too, fail it when they log an error, throw, or miss an asset. */
export const test = base.extend<Fixtures>({
  complaints: [
    async ({ context }, use) => {
      const complaints: Complaints = [];
      watch(context, complaints);
      await use(complaints);
      expect(complaints, "what the browser complained about").toEqual([]);
    },
    { auto: true },
  ],
});

/** WCAG 2.2 AA, and what axe calls best practice. */
const axeOptions = {
  runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  resultTypes: ["violations"],
};

/** Runs axe-core on the address and cookies of `page`, in light and in dark; any violation fails.
 *
 * The site's content security policy forbids injected scripts, so the check loads the page anew in a context that
 * bypasses it; the journey's own page stays as it is. To check a state that only clicks bring about, give `arrange`:
 * it is done to the fresh page first. */
export async function axe(page: Page, arrange: (page: Page) => Promise<void> = async () => {}): Promise<void> {
  const browser = page.context().browser();
  if (!browser) throw new Error("axe needs a browser of its own, not a persistent context");
  const violations: string[] = [];
  for (const colorScheme of ["light", "dark"] as const) {
    violations.push(...(await violationsIn(browser, page, colorScheme, arrange)));
  }
  expect(violations, `accessibility of ${page.url()}`).toEqual([]);
}

async function violationsIn(
  browser: Browser,
  page: Page,
  colorScheme: "light" | "dark",
  arrange: (page: Page) => Promise<void>,
): Promise<string[]> {
  const context = await browser.newContext({
    bypassCSP: true,
    colorScheme,
    // A colour in the middle of a transition is no colour of the design.
    reducedMotion: "reduce",
    storageState: await page.context().storageState(),
    viewport: page.viewportSize(),
  });
  try {
    const fresh = await context.newPage();
    await fresh.goto(page.url());
    await arrange(fresh);
    return await violationsOf(fresh, colorScheme);
  } finally {
    await context.close();
  }
}

/** As [`axe`], on the page as it is now: for states that cannot be opened by an address. The page's context must bypass
 * the content security policy. */
export async function axeInPlace(page: Page): Promise<void> {
  const violations: string[] = [];
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    violations.push(...(await violationsOf(page, colorScheme)));
  }
  await page.emulateMedia({ colorScheme: null, reducedMotion: null });
  expect(violations, `accessibility of ${page.url()}`).toEqual([]);
}

async function violationsOf(page: Page, words: string): Promise<string[]> {
  await page.addScriptTag({ content: axeSource });
  const results = await page.evaluate(
    (options) => (window as unknown as { axe: { run(o: unknown): Promise<AxeResults> } }).axe.run(options),
    axeOptions,
  );
  return results.violations.flatMap((violation) =>
    violation.nodes.map((node) => `${words}: ${violation.id}: ${node.target.join(" ")}: ${node.failureSummary}`),
  );
}

const screens = fileURLToPath(new URL("results/screens/", import.meta.url));

/** Keeps a picture of the whole page as `results/screens/NAME-SCHEME.png`, in light and in dark. */
export async function screenshot(
  page: Page,
  name: string,
  schemes: readonly ("light" | "dark")[] = ["light", "dark"],
): Promise<void> {
  for (const colorScheme of schemes) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    await page.screenshot({ path: `${screens}${name}-${colorScheme}.png`, fullPage: true });
  }
  await page.emulateMedia({ colorScheme: null, reducedMotion: null });
}
