// A portal of its own, started for the first time: nobody is there yet.
import { spawn } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "../support.ts";
import { filled, LOOKS } from "./pages.ts";
import { look } from "./looking.ts";
import { PASSWORD } from "./steps.ts";

const program = process.env.TURNPIKE_BIN ?? fileURLToPath(new URL("../../target/debug/turnpike", import.meta.url));

// It makes a database cluster, on cores that others use too.
test.describe.configure({ timeout: 240_000 });

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

test("the first start prints a one-time address; the first admin is made there, and the page is gone", async ({ browser }) => {
  const folder = mkdtempSync(join(tmpdir(), "turnpike-first-"));
  // PostgreSQL runs as another user where the tests run as root.
  chmodSync(folder, 0o755);
  const [portal, gateway, operations] = [await freePort(), await freePort(), await freePort()];
  const serve = spawn(program, ["serve"], {
    env: {
      PATH: process.env.PATH,
      TURNPIKE_DATA_DIR: folder,
      TURNPIKE_PORTAL_URL: `http://127.0.0.1:${portal}`,
      TURNPIKE_PORTAL_LISTEN: `127.0.0.1:${portal}`,
      TURNPIKE_GATEWAY_LISTEN: `127.0.0.1:${gateway}`,
      TURNPIKE_OPERATIONS_LISTEN: `127.0.0.1:${operations}`,
      // Nobody answers there: the emulator of the other journeys would go on delivering to a portal that is gone.
      TURNPIKE_STRIPE_URL: "http://127.0.0.1:9",
      TURNPIKE_STRIPE_SECRET_KEY: "sk_test_demo",
    },
  });
  let log = "";
  for (const stream of [serve.stdout, serve.stderr]) stream.on("data", (chunk: Buffer) => (log += chunk.toString()));
  const ended = new Promise((resolve) => serve.once("exit", resolve));
  try {
    const printed = () => /\/admin\/setup\?token=([0-9A-Za-z_-]+)/.exec(log)?.[1];
    await expect.poll(printed, { timeout: 120_000, message: "the log names the address" }).toBeTruthy();
    const context = await browser.newContext({ baseURL: `http://127.0.0.1:${portal}` });
    const page = await context.newPage();
    const address = filled(LOOKS.firstStart.setup, { token: printed()! });
    await look(page, LOOKS.firstStart, { token: printed()! });
    await page.goto("/");
    await expect(page.getByRole("heading", { name: "Nothing is on sale yet" })).toBeVisible();

    await page.goto(address);
    await page.getByLabel("E-mail").fill("first@provider.example");
    await page.getByLabel("Password").fill("short");
    await page.getByRole("button", { name: "Become the admin" }).click();
    await expect(page.getByLabel("Password")).toBeFocused();
    await expect(page.getByLabel("E-mail")).toHaveValue("first@provider.example");
    await page.getByLabel("Password").fill(PASSWORD);
    await page.getByRole("button", { name: "Become the admin" }).click();
    await expect(page).toHaveURL("/admin");
    await look(page, { "first-overview": "/admin", "first-plans": "/admin/plans", "first-consumers": "/admin/consumers" });
    expect((await page.goto(address))?.status()).toBe(404);
    await context.close();
  } finally {
    serve.kill("SIGTERM");
    await ended;
    const elsewhere = join(folder, "postgres/elsewhere");
    if (existsSync(elsewhere)) rmSync(readFileSync(elsewhere, "utf8").trim(), { recursive: true, force: true });
    rmSync(folder, { recursive: true, force: true });
  }
  expect(log).not.toContain("panicked at");
});
