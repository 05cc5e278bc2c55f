// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// What the scenarios share: a browser whose console is watched, and eyes.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { chromium } from "playwright-core";

export const ask = JSON.parse(process.env.PAGE_ASK);
const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
/** How long what should take a moment may take, on a machine that is busy. */
export const patience = 30_000;

/** play runs a scenario with a page. What the console may say, and nothing else, allowed tells. */
export async function play(scenario, allowed = []) {
  const browser = await chromium.launch({
    executablePath: ask.chromium,
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      // The key of the test's own certificate, and no other.
      `--ignore-certificate-errors-spki-list=${ask.keyHash}`,
    ],
  });
  try {
    const context = await browser.newContext({ viewport: { width: 1000, height: 640 }, reducedMotion: "reduce" });
    const page = await context.newPage();
    page.setDefaultTimeout(patience);
    const complaints = [];
    const urls = [];
    page.on("console", (line) => ["error", "warning"].includes(line.type()) && complaints.push(line.text()));
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("request", (request) => urls.push(request.url()));
    await page.addInitScript(() => {
      addEventListener("securitypolicyviolation", (e) => console.error(`policy: ${e.violatedDirective} ${e.blockedURI}`));
    });
    await scenario(page, context);
    for (const token of Object.values(ask.tokens)) {
      assert.ok(urls.every((url) => !url.includes(token)), "a token is in a URL");
    }
    assert.ok(urls.every((url) => url.startsWith(ask.page)), "something was loaded from elsewhere");
    assert.deepEqual(complaints.filter((text) => !allowed.some((may) => may.test(text))), [], "the console complains");
  } finally {
    await browser.close();
  }
}

/** step has the test do something outside of the browser. */
export async function step(name) {
  const response = await fetch(`${ask.steps}/${name}`, { method: "POST" });
  assert.ok(response.ok, `${name}: ${await response.text()}`);
}

/** look has axe-core look at the page, in light and dark and in a narrow window, and wants no finding. */
export async function look(page, state) {
  // By the debugger's way in, as the page's policy lets no other script in.
  await page.evaluate(axe);
  for (const [colorScheme, width] of [["dark", 1000], ["light", 360], ["light", 1000]]) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 640 });
    const found = await page.evaluate(async () => {
      const { violations, passes } = await globalThis.axe.run(document, { resultTypes: ["violations"] });
      return { violations: violations.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.target} ${n.failureSummary}`).join("; ")}`), passes: passes.length };
    });
    assert.deepEqual(found.violations, [], `axe-core: ${state}, ${colorScheme}, ${width} wide`);
    assert.ok(found.passes > 10, `axe-core looked at little: ${state}`);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(overflow <= 0, `${state}: ${overflow} pixels more than the window's ${width}`);
  }
}

/** picture writes a picture for the docs, if they are wanted. */
export async function picture(page, name, colorScheme = "light") {
  if (ask.images !== "") {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: join(ask.images, `page-${name}.png`) });
    await page.emulateMedia({ colorScheme: "light" });
  }
}

/** shows waits until an element shows a text. */
export async function shows(page, selector, text) {
  await page.locator(selector, { hasText: text }).first().waitFor();
}

/** tabTo goes on by Tab until an element has the focus, as one without a mouse does. */
export async function tabTo(page, selector, most = 30) {
  for (let i = 0; i < most; i++) {
    if (await page.evaluate((s) => document.activeElement?.matches(s) ?? false, selector)) {
      return;
    }
    await page.keyboard.press("Tab");
  }
  assert.fail(`no way to ${selector} by Tab`);
}

/** signIn signs in by the keyboard. */
export async function signIn(page, token, namespace = ask.namespace) {
  await page.locator("#sign-in").waitFor();
  await tabTo(page, "#token");
  await page.keyboard.insertText(token);
  await tabTo(page, "#namespace");
  await page.keyboard.press("Control+A");
  await page.keyboard.insertText(namespace);
  await page.keyboard.press("Enter");
}
