// The support itself, against a site of a few wrong pages: a check that cannot fail is worth nothing.
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { axe, expect, test } from "../support.ts";

const html = (body: string, head = "") =>
  `<!doctype html><html lang="en"><head><title>Page</title><link rel="icon" href="data:,">${head}</head>` +
  `<body><main><h1>Hello</h1>${body}</main></body></html>`;
const dark = "@media (prefers-color-scheme: dark) { body { background: #000; color: #222 } }";

/** Path to content type and body; no body cuts the connection. */
const pages: Record<string, [string, string?]> = {
  "/good": ["text/html", html("")],
  "/logs": ["text/html", html("", '<script src="/logs.js"></script>')],
  "/logs.js": ["text/javascript", "console.error('a bad thing')"],
  "/throws": ["text/html", html("", '<script src="/throws.js"></script>')],
  "/throws.js": ["text/javascript", "throw new Error('a worse thing')"],
  "/misses": ["text/html", html('<img alt="none" src="/nowhere.png">')],
  "/cut": ["text/html", html('<img alt="none" src="/cut.png">')],
  "/cut.png": ["image/png"],
  "/inline": ["text/html", html("<script>1</script>")],
  "/unnamed": ["text/html", html('<img src="data:,">')],
  "/dim": ["text/html", html("<p>Text</p>", '<link rel="stylesheet" href="/dim.css">')],
  "/dim.css": ["text/css", dark],
};

let server: Server;
let site: string;

test.beforeAll(async () => {
  server = createServer((request, response) => {
    const [type, body] = pages[request.url ?? ""] ?? ["text/html", html("Not here")];
    if (body === undefined) return request.socket.destroy();
    const csp = "default-src 'self'; img-src 'self' data:";
    response.writeHead(request.url! in pages ? 200 : 404, { "content-type": type, "content-security-policy": csp });
    return response.end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  site = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

test.afterAll(() => server.close());

test("a sound page passes, behind its content security policy", async ({ page, complaints }) => {
  await page.goto(`${site}/good`);
  await axe(page);
  expect(complaints).toEqual([]);
});

test("a journey may ask for a page that is not there", async ({ page }) => {
  expect((await page.goto(`${site}/nowhere`))?.status()).toBe(404);
});

for (const [path, complaint] of [
  ["/logs", "console: a bad thing"],
  ["/throws", "page error: Error: a worse thing"],
  ["/misses", "asset: 404"],
  ["/cut", "request failed"],
  ["/inline", "Content Security Policy"],
] as const) {
  test(`${path} is complained about`, async ({ page, complaints }) => {
    await page.goto(`${site}${path}`);
    await expect.poll(() => complaints.join("\n")).toContain(complaint);
    complaints.length = 0;
  });
}

test("a violation fails, also one in the dark alone", async ({ page }) => {
  await page.goto(`${site}/unnamed`);
  await expect(axe(page)).rejects.toThrow(/light: image-alt/);
  await page.goto(`${site}/dim`);
  const failure = String(await axe(page).catch((error: Error) => error.message));
  expect(failure).toContain("dark: color-contrast");
  expect(failure).not.toContain("light: color-contrast");
});
