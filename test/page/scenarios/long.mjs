// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Two megabytes of answer.
import assert from "node:assert/strict";

import { ask, patience, play, shows, signIn, step } from "../browser.mjs";

const line = `${"words and words, ".repeat(60)}\n`;
const lines = 2000;
/** What one task may keep the page from listening, on a machine that is busy: a second is noticed. */
const mostMs = 1500;

await play(async (page) => {
  await page.goto(`${ask.page}ui/#/${ask.namespace}/long`);
  await signIn(page, ask.tokens.viewer);
  await step("run");
  await shows(page, "#run-facts", "Streaming");
  await page.evaluate(() => {
    globalThis.longest = 0;
    new PerformanceObserver((list) => {
      for (const { duration } of list.getEntries()) {
        globalThis.longest = Math.max(globalThis.longest, duration);
      }
    }).observe({ type: "longtask" });
  });
  const began = Date.now();
  await step("goOn");
  await page.locator("#run-facts", { hasText: "Succeeded" }).waitFor({ timeout: 2 * patience });
  const text = await page.locator("#run-answer").textContent();
  assert.equal(text.length, line.length * lines);
  assert.equal(text, line.repeat(lines));
  const blocks = await page.locator("#run-answer > div").count();
  assert.ok(blocks > 100, `${blocks} blocks`);
  const longest = await page.evaluate(() => globalThis.longest);
  assert.ok(longest < mostMs, `the page did not listen for ${longest} ms`);
  console.log(`${text.length} characters in ${Date.now() - began} ms, ${blocks} blocks, longest task ${Math.round(longest)} ms`);
});
