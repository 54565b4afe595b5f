// Streams go through the gateway event by event, and end with the key.
import { expect, test } from "../support.ts";
import { answers, call, createKey, signUp, subscribe } from "./steps.ts";

test("the streamed clock ticks until its key is revoked", async ({ page }) => {
  await signUp(page);
  await subscribe(page, "Scale");
  const key = await createKey(page, { name: "clock" });
  await answers(key, 200);

  const response = await call(key, "/v1/clock");
  expect(response.status).toBe(200);
  expect(response.headers.get("content-type")).toContain("text/event-stream");
  let text = "";
  let ended = false;
  const reading = (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of response.body!) text += decoder.decode(chunk, { stream: true });
  })().then(
    () => (ended = true),
    () => (ended = true),
  );
  const ticks = () => text.match(/^data:/gm)?.length ?? 0;
  await expect.poll(ticks, { timeout: 15_000 }).toBeGreaterThanOrEqual(2);
  expect(ended).toBe(false);

  await page.goto("/keys");
  await page.getByRole("link", { name: "Revoke clock" }).click();
  await page.getByRole("button", { name: "Revoke key" }).click();
  await expect.poll(() => ended, { timeout: 20_000 }).toBe(true);
  await reading;
  await answers(key, 401);
});
