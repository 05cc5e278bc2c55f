// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { test } from "node:test";

import { Unavailable, fetchPage } from "../page/lists.js";
import { Paper, blockLength } from "../page/paper.js";
import { ageText, hashOf, phaseText, placeOf, retryText, secondsLeft, tokenOf } from "../page/words.js";
import { RunError } from "../src/index.js";
import type { Summary } from "../src/index.js";

const now = Date.parse("2026-01-02T15:04:05Z");
const at = (ms: number): string => new Date(now + ms).toISOString();

test("the address names a place, and any name survives it", () => {
  for (const place of [
    { namespace: "team", name: "" },
    { namespace: "team", name: "hello" },
    { namespace: "a b", name: "c/d%#?" },
  ]) {
    assert.deepEqual(placeOf(hashOf(place)), place);
  }
  for (const hash of ["", "#", "#/", "#/a/b/c", "#/%E0%A4%A", "#team", "#//b"]) {
    assert.equal(placeOf(hash), undefined, hash);
  }
});

test("a token is what a header can carry", () => {
  assert.equal(tokenOf(" abc.DEF-_\n"), "abc.DEF-_");
  assert.equal(tokenOf("Bearer abc"), "abc");
  assert.equal(tokenOf("Authorization: Bearer abc"), "abc");
  for (const none of ["", "  ", "two words", "naïve", "a\nb", "a\u0000"]) {
    assert.equal(tokenOf(none), undefined, none);
  }
});

test("a wait counts down, and never above the whole of it", () => {
  const wait = { retryingAt: at(7000), delayMs: 8000 };
  assert.deepEqual([0, 1, 1000, 6999, 7000, 9000].map((ms) => secondsLeft(wait, now + ms)), [7, 7, 6, 1, 0, 0]);
  assert.equal(secondsLeft(wait, now - 3_600_000), 8, "a clock that is an hour behind");
  assert.equal(secondsLeft({ retryingAt: "soon" }, now), 0);
  assert.equal(retryText({ ...wait, attempt: 3, reason: "Overloaded" }, now), "Retrying in 7 s (attempt 3, Overloaded)");
  assert.equal(retryText({ ...wait, attempt: 3 }, now + 8000), "Retrying any moment (attempt 3)");
});

const run: Summary = { name: "hello", uid: "u", provider: "p", phase: "Pending", attempt: 0, createdAt: at(-60_000) };

test("the list says what a phase alone does not", () => {
  for (const [change, want] of [
    [{}, ""],
    [{ reason: "Queued" }, "Queued"],
    [{ reason: "Pending" }, ""],
    [{ phase: "Streaming", reason: "Streaming", attempt: 1 }, ""],
    [{ phase: "Failed", reason: "AuthenticationFailed" }, "AuthenticationFailed"],
    [{ phase: "Retrying", attempt: 2, retryingAt: at(2000), delayMs: 2000, lastErrorReason: "Timeout" }, "Retrying in 2 s (attempt 2, Timeout)"],
    [{ phase: "Retrying", attempt: 2, lastErrorReason: "Timeout" }, "Timeout"],
    [{ phase: "Succeeded", reason: "Completed", lastErrorReason: "Timeout" }, ""],
  ] as [Partial<Summary>, string][]) {
    assert.equal(phaseText({ ...run, ...change }, now), want, JSON.stringify(change));
  }
});

test("an age is in its largest unit", () => {
  for (const [ago, want] of [[0, "0 s ago"], [-5, "0 s ago"], [59, "59 s ago"], [60, "1 min ago"], [7200, "2 h ago"], [200_000, "2 d ago"]] as const) {
    assert.equal(ageText(at(-ago * 1000), now), want);
  }
  assert.equal(ageText("long ago", now), "");
});

/** Leaf and Box are what Paper needs of a document. */
class Leaf {
  text = "";
  get length(): number {
    return this.text.length;
  }
  appendData(more: string): void {
    this.text += more;
  }
}

class Box {
  children: (Box | Leaf)[] = [];
  ownerDocument = { createElement: () => new Box(), createTextNode: () => new Leaf() };
  append(child: Box | Leaf): void {
    this.children.push(child);
  }
  replaceChildren(): void {
    this.children = [];
  }
  get text(): string {
    return this.children.map((child) => child.text).join("");
  }
}

test("a text is whole, and in blocks that end with a line", () => {
  const box = new Box();
  const paper = new Paper(box as unknown as HTMLElement);
  const line = `${"word ".repeat(30)}\n`;
  const whole = line.repeat(2000);
  for (let from = 0, size = 1; from < whole.length; from += size, size = (size * 7) % 211) {
    paper.append(whole.slice(from, from + size));
  }
  assert.equal(box.text, whole);
  assert.ok(box.children.length > whole.length / blockLength / 2, `${box.children.length} blocks`);
  for (const block of box.children.slice(0, -1)) {
    assert.ok(block.text.endsWith("\n") && block.text.length < 2 * blockLength, `a block of ${block.text.length}`);
  }
  paper.append(line.repeat(1000)); // all at once, as one who comes late gets it
  assert.equal(box.text, whole + line.repeat(1000));
  assert.ok(box.children.every((block) => block.text.length < 2 * blockLength));
  paper.clear();
  paper.append("new");
  assert.equal(box.text, "new");
});

test("a line without an end grows in nodes that do not", () => {
  const box = new Box();
  const paper = new Paper(box as unknown as HTMLElement);
  for (let i = 0; i < 10_000; i++) {
    paper.append("0123456789");
  }
  assert.equal(box.text.length, 100_000);
  assert.equal(box.children.length, 1);
  assert.ok((box.children[0] as Box).children.every((node) => node.text.length <= blockLength + 10));
});

/** ask asks for a page, of a server that says what it is given. */
async function ask(respond: (headers: Headers, url: string) => Response, known?: { etag: string; list: { namespace: string; runs: Summary[] } }) {
  return fetchPage({
    baseURL: new URL("https://chat.example/below/"),
    namespace: "team",
    after: "2026-01-02T15:04:05Z/hello",
    known,
    token: () => "secret",
    signal: new AbortController().signal,
    fetch: async (url, init) => respond(new Headers(init.headers), url),
  });
}

test("a page of the list is asked for with the token in its header, and kept while it does not change", async () => {
  const list = { namespace: "team", runs: [run] };
  const page = await ask((headers, url) => {
    assert.equal(url, "https://chat.example/below/v1/namespaces/team/chatruns?continue=2026-01-02T15%3A04%3A05Z%2Fhello");
    assert.equal(headers.get("Authorization"), "Bearer secret");
    assert.equal(headers.get("If-None-Match"), null);
    return Response.json(list, { headers: { ETag: '"1"' } });
  });
  assert.deepEqual(page, { etag: '"1"', list });
  const again = await ask((headers) => {
    assert.equal(headers.get("If-None-Match"), '"1"');
    return new Response(null, { status: 304 });
  }, page);
  assert.equal(again, page);
});

test("refusals that stay end the list, others pass", async () => {
  const refusal = (status: number, headers = {}): Response => Response.json({ message: "no", reason: "R" }, { status, headers });
  await assert.rejects(ask(() => refusal(403)), (error: unknown) => error instanceof RunError && error.status === 403 && error.reason === "R");
  await assert.rejects(
    ask(() => refusal(429, { "Retry-After": "5" })),
    (error: unknown) => error instanceof Unavailable && error.afterMs === 5000 && error.message === "no",
  );
  await assert.rejects(ask(() => refusal(503)), Unavailable);
  await assert.rejects(
    ask(() => {
      throw new TypeError("no network");
    }),
    (error: unknown) => error instanceof Unavailable && error.message.includes("no network") && !error.message.includes("secret"),
  );
});
