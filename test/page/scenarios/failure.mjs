// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// What goes wrong, and what the page says of it.
import assert from "node:assert/strict";

import { ask, look, play, shows, signIn, tabTo } from "../browser.mjs";

await play(
  async (page) => {
    // An address that somebody sent leads there after the sign-in.
    await page.goto(`${ask.page}ui/#/${ask.namespace}/wrong`);
    await signIn(page, ask.tokens.listener);
    await shows(page, "#run-failed", "Failed: AuthenticationFailed");
    await shows(page, "#run-facts", "Failed");
    await look(page, "a failure");

    // Who may read streams alone is told so, and can open a run by its name.
    await tabTo(page, "#run-back");
    await page.keyboard.press("Enter");
    await shows(page, "#runs-note", 'cannot list resource "chatruns"');
    await shows(page, "#runs-note", "chatrun-viewer");
    await look(page, "a list that one may not see");
    await tabTo(page, "#open-name");
    await page.keyboard.insertText("wrong");
    await page.keyboard.press("Enter");
    await shows(page, "#run-failed", "Failed: AuthenticationFailed");

    // Another namespace, where nothing is theirs.
    await page.goto(`${ask.page}ui/#/kube-system/secret`);
    await shows(page, "#run-failed", 'in the namespace "kube-system"');
    await shows(page, "#run-failed", "chatrun-stream-reader");
    assert.equal(await page.locator("#run-answer").textContent(), "");

    // A failure is one in the list, too, and not by its colour alone.
    await page.locator("#sign-out").click();
    await page.goto(`${ask.page}ui/#/${ask.namespace}`);
    await signIn(page, ask.tokens.viewer);
    await shows(page, "#runs-rows tr", "AuthenticationFailed");
  },
  [/^Failed to load resource: the server responded with a status of 403/],
);
