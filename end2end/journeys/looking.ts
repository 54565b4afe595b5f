// Looking at a page: axe in light and dark, nothing wider than a telephone, and pictures of it.
import type { Page } from "@playwright/test";
import { axe, axeInPlace, expect, screenshot } from "../support.ts";
import { filled, type Looks } from "./pages.ts";

/** The narrowest telephone that is common, in CSS pixels. */
const NARROW = { width: 375, height: 812 };

/** Looks at the addresses one after another and tells everything that is wrong at once. */
export async function look(page: Page, looks: Looks, gaps: Record<string, string> = {}): Promise<void> {
  const faults: string[] = [];
  for (const [name, address] of Object.entries(looks)) {
    await page.goto(filled(address, gaps));
    await pictures(page, name, faults);
    await axe(page).catch((error: Error) => faults.push(`${name}: ${error.message}`));
  }
  expect(faults).toEqual([]);
}

/** Looks at the page as it is, for states that only a form brings about. The journey's context bypasses the content
 * security policy. */
export async function lookHere(page: Page, name: string): Promise<void> {
  const faults: string[] = [];
  await pictures(page, name, faults);
  await axeInPlace(page).catch((error: Error) => faults.push(`${name}: ${error.message}`));
  expect(faults).toEqual([]);
}

async function pictures(page: Page, name: string, faults: string[]): Promise<void> {
  const wide = page.viewportSize()!;
  await screenshot(page, name);
  await page.setViewportSize(NARROW);
  const cut = await page.evaluate(cutOff, NARROW.width);
  if (cut.length > 0) faults.push(`${name} on a telephone: ${cut.slice(0, 4).join("; ")}`);
  await screenshot(page, `${name}-narrow`, ["light"]);
  await page.setViewportSize(wide);
}

/** What sticks out of the page, or out of a part that does not scroll. Tables in cards are to fit; code and charts may
 * scroll. Runs in the page. */
function cutOff(limit: number): string[] {
  const named = (element: Element) => `${element.tagName.toLowerCase()}.${element.getAttribute("class") ?? ""}`;
  const all = [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility());
  const wide = all.filter(
    (element) =>
      element.getBoundingClientRect().right > limit + 1 && !element.closest(".code, .chart-wrap, .skip, thead, .table-wrap"),
  );
  const tables = all.filter((element) => element.matches(".table-wrap") && element.scrollWidth > element.clientWidth + 1);
  const page = document.documentElement.scrollWidth;
  return [
    ...(page > limit ? [`${page} px wide`] : []),
    ...wide.map((element) => `${named(element)} sticks out`),
    ...tables.map((element) => `the table ${element.getAttribute("aria-label") ?? ""} is cut`),
  ];
}
