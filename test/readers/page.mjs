// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Opens a page of another origin in headless Chromium, which reads a run: with
// the browser's own EventSource and a ticket, or with the client in web/.
import { chromium } from "playwright-core";

import { ask, report } from "./ask.mjs";

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
  const page = await browser.newPage();
  let end;
  const ended = new Promise((resolve, reject) => {
    end = resolve;
    page.on("crash", () => reject(new Error("the page crashed")));
    page.on("pageerror", reject);
  });
  ended.catch(() => {}); // it is awaited below, perhaps later than it fails
  await page.exposeFunction("report", (line) => {
    report(line);
    if (line.end || line.error) {
      end();
    }
  });
  await page.goto(ask.page);
  await page.evaluate(([how, ask]) => window.read(how, ask), [process.argv[2], ask]);
  await ended;
} catch (error) {
  report({ error: String(error) });
} finally {
  await browser.close();
}
