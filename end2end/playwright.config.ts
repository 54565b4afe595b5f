// One browser, Debian's own: nothing is downloaded. Journeys do not share data, so all run at once; only the catalogue
// is published before them, and time passes after them, because both are everybody's.
import { defineConfig } from "@playwright/test";

/** Where the portal answers. */
const baseURL = process.env.PORTAL_URL ?? "http://127.0.0.1:3000";

export default defineConfig({
  testDir: "journeys",
  outputDir: "results",
  fullyParallel: true,
  // Pages rendered at the same time are part of what is tested, also on two cores.
  workers: "100%",
  forbidOnly: Boolean(process.env.CI),
  // A journey that passes the second time has found a fault.
  retries: 0,
  reporter: "list",
  // Bounds against hanging, on two busy cores; nothing here measures.
  timeout: 90_000,
  expect: { timeout: 10_000 },
  projects: [
    { name: "catalogue", testMatch: "catalogue.spec.ts" },
    { name: "main", testIgnore: ["catalogue.spec.ts", "clock.spec.ts"], dependencies: ["catalogue"] },
    { name: "clock", testMatch: "clock.spec.ts", dependencies: ["main"] },
  ],
  use: {
    baseURL,
    browserName: "chromium",
    headless: true,
    locale: "en-US",
    timezoneId: "UTC",
    viewport: { width: 1280, height: 800 },
    trace: "retain-on-failure",
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    },
  },
});
