// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// The whole way, by the keyboard alone.
import assert from "node:assert/strict";

import { ask, look, picture, play, shows, signIn, step, tabTo } from "../browser.mjs";

const answer =
  "A lighthouse keeper's day begins at dusk, when the lamp is lit and its lenses are wiped free of salt.\n\n" +
  "Through the night the keeper winds the clockwork, trims the wick and writes into the log what passes. <b>Nothing</b> here is markup.\n\n" +
  "At dawn the lamp goes out. Then there is brass to polish.";

/** record keeps what an element shows, one text after the other. */
async function record(page, selector) {
  await page.evaluate((selector) => {
    const seen = ((globalThis.seen ??= {})[selector] = []);
    const note = () => {
      const text = document.querySelector(selector).textContent;
      if (text !== "" && seen.at(-1) !== text) {
        seen.push(text);
      }
    };
    new MutationObserver(note).observe(document.querySelector(selector), { childList: true, subtree: true, characterData: true });
    note();
  }, selector);
}

const recorded = (page, selector) => page.evaluate((selector) => globalThis.seen[selector], selector);

/** counted wants the countdown of an attempt to have counted. */
function counted(texts, attempt, reason) {
  const line = new RegExp(`^Retrying in (\\d+) s \\(attempt ${attempt}, ${reason}\\)$`);
  const seconds = texts.flatMap((text) => line.exec(text)?.[1] ?? []).map(Number);
  assert.ok(seconds.length >= 3, `attempt ${attempt} counted ${seconds}: ${texts}`);
  assert.ok(seconds[0] <= 4 && seconds.every((s, i) => i === 0 || s < seconds[i - 1]), `attempt ${attempt} counted ${seconds}`);
}

async function signInAfterMistakes(page) {
  await page.goto(ask.page);
  assert.equal(new URL(page.url()).pathname, "/ui/");
  await look(page, "sign-in");
  await signIn(page, "no token at all");
  await shows(page, "#alert", "That is no token");
  await signIn(page, "not-a-token-of-anybody");
  await shows(page, "#alert", "it is wrong, or it has expired");
  assert.equal(await page.locator("#token").inputValue(), "");
  assert.equal(await page.evaluate(() => document.activeElement.id), "token", "one can paste another at once");
  await look(page, "a wrong token");
  await signIn(page, ` Bearer ${ask.tokens.viewer}\n`);
  await shows(page, "#runs-head", `Runs of ${ask.namespace}`);
  assert.equal(await page.evaluate(() => document.activeElement.id), "runs-head", "the reader is led to the list");
}

async function seeTheList(page) {
  await shows(page, "#runs-note", "There are no runs");
  await look(page, "an empty list");
  await step("first");
  await shows(page, "#runs-rows tr", "a-good-one");
  await step("run");
  // By itself, and on top.
  await shows(page, "#runs-rows tr:first-child", "keeper");
  await shows(page, "#runs-rows tr:first-child", "ProviderNotReady");
  await look(page, "a list");
}

async function followTheRun(page) {
  await tabTo(page, "#runs-rows tr:first-child a");
  await page.keyboard.press("Enter");
  await shows(page, "#run-facts", "Pending");
  assert.equal(new URL(page.url()).hash, `#/${ask.namespace}/keeper`);
  for (const selector of ["#run-facts", "#run-count", "#run-answer", "#said"]) {
    await record(page, selector);
  }
  await step("provider");
  await shows(page, "#run-count", "(attempt 1, Overloaded)");
  await shows(page, "#run-why", "is overloaded");
  await picture(page, "retry");
  await look(page, "a retry");
  await shows(page, "#run-answer", "A draft that is");
  await step("drop");
  await shows(page, "#run-count", "(attempt 2, StreamInterrupted)");
  await shows(page, "#run-count", "(attempt 3, RateLimited)");
  await shows(page, "#run-answer", "A lighthouse keeper");
  assert.ok(await page.locator("#run-retry").isHidden(), "the countdown is gone");
  assert.equal(await page.locator("#run-answer").textContent(), answer.split("\n\n")[0] + "\n\n", "no text of a failed attempt");
  await shows(page, "#run-head", "A Lighthouse Keeper's Day");
  await look(page, "a stream");
}

async function seeItHealAndEnd(page) {
  await step("cut");
  await shows(page, "#run-link", "The connection was lost");
  await step("goOn");
  await shows(page, "#run-answer", "Nothing");
  await page.locator("#run-link").waitFor({ state: "hidden" });
  await picture(page, "stream", "dark");
  await step("finish");
  await shows(page, "#run-facts", "Succeeded");
  await shows(page, "#run-facts", "21 in, 74 out");
  for (const fact of ["gpt-5-mini", "Provider:openai", "Created:", "Attempt:4"]) {
    await shows(page, "#run-facts", fact);
  }
  assert.equal(await page.locator("#run-answer").textContent(), answer);
  assert.equal(await page.locator("#run-answer b").count(), 0, "text is no markup");
  await look(page, "an end");

  const counts = await recorded(page, "#run-count");
  counted(counts, 1, "Overloaded");
  counted(counts, 2, "StreamInterrupted");
  counted(counts, 3, "RateLimited");
  const texts = await recorded(page, "#run-answer");
  assert.ok(
    texts.findLastIndex((text) => text.includes("draft")) < texts.findIndex((text) => text.startsWith("A lighthouse")),
    "the draft was dropped before the answer came",
  );
  const phases = (await recorded(page, "#run-facts")).map((text) => /Phase:(\w+?)(Attempt|Provider|$)/.exec(text)?.[1]);
  for (const phase of ["Pending", "Streaming", "Retrying", "Succeeded"]) {
    assert.ok(phases.includes(phase), `${phase} was not seen: ${phases}`);
  }
  // Those who do not see the page are told of each change, and not of each second.
  const said = await recorded(page, "#said");
  assert.equal(said.filter((text) => text.includes("(attempt 3")).length, 1, `${said}`);
  assert.ok(said.at(-1).startsWith("Succeeded"), `${said}`);
}

async function goBackAndOut(page) {
  await tabTo(page, "#run-back");
  await page.keyboard.press("Enter");
  await shows(page, "#runs-rows tr:first-child", "A Lighthouse Keeper's Day");
  await shows(page, "#runs-rows tr:first-child", "Succeeded");
  await picture(page, "list");
  await tabTo(page, "#sign-out", 60);
  await page.keyboard.press("Enter");
  await page.locator("#sign-in").waitFor();
  await page.evaluate(() => delete globalThis.seen);
  const left = await page.evaluate(async () => ({
    url: location.href,
    markup: document.documentElement.outerHTML,
    fields: [...document.querySelectorAll("input")].map((field) => field.value).join(" "),
    stores: [localStorage.length, sessionStorage.length, (await indexedDB.databases()).length, (await caches.keys()).length],
    cookie: document.cookie,
  }));
  const text = left.url + left.markup + left.fields;
  assert.ok(!text.includes(ask.tokens.viewer), "the token is still there");
  assert.ok(!text.includes("lighthouse keeper") && !text.includes("Lighthouse Keeper"), "what was read is still there");
  assert.deepEqual([left.stores, left.cookie], [[0, 0, 0, 0], ""], "something is stored");
  // The address of the run alone opens nothing.
  await page.goBack();
  await page.locator("#sign-in").waitFor();
  await signIn(page, ask.tokens.viewer);
  await shows(page, "#run-answer", "brass to polish");
  await page.reload();
  await page.locator("#sign-in").waitFor();
}

await play(
  async (page) => {
    await signInAfterMistakes(page);
    await seeTheList(page);
    await followTheRun(page);
    await seeItHealAndEnd(page);
    await goBackAndOut(page);
  },
  [
    // Chromium itself says so of the wrong token, and of the cut.
    /^Failed to load resource: the server responded with a status of 401/,
    /net::ERR_(CONNECTION_RESET|CONNECTION_CLOSED|EMPTY_RESPONSE|HTTP2_PING_FAILED|NETWORK_CHANGED)/,
  ],
);
