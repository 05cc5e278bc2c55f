// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { afterEach, beforeEach, mock, test } from "node:test";

import { RunError, readRun } from "../src/index.js";
import { Endpoint, done, frame, hang, part, read, refuse, settle, status, stream } from "./endpoint.js";

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  mock.method(Math, "random", () => 0);
});
afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

for (const code of [400, 401, 403, 404, 405, 410, 414, 424, 431]) {
  test(`${code} is final`, async () => {
    const endpoint = new Endpoint(refuse(code, "Reason"));
    const { error, reconnects } = await read(endpoint);
    assert.ok(error instanceof RunError);
    assert.deepEqual([error.status, error.reason, error.message], [code, "Reason", "refused: Reason"]);
    assert.deepEqual([reconnects.length, endpoint.asked.length, endpoint.open], [0, 1, 0]);
  });
}

for (const code of [408, 429, 500, 502, 503, 504]) {
  test(`${code} passes`, async () => {
    const endpoint = new Endpoint(refuse(code, "Later"), stream(done(0)));
    const { error, reconnects } = await read(endpoint);
    assert.equal(error, undefined);
    assert.deepEqual([reconnects.length, endpoint.asked.length, endpoint.open], [1, 2, 0]);
    assert.ok(reconnects[0]?.cause instanceof RunError && reconnects[0].cause.status === code);
  });
}

test("Retry-After is obeyed, within a bound", async () => {
  mock.timers.setTime(Date.parse("2026-01-02T15:04:05Z"));
  const endpoint = new Endpoint(
    refuse(429, "TooManyRequests", { "Retry-After": "7" }),
    refuse(503, "Unavailable", { "Retry-After": "Fri, 02 Jan 2026 15:04:42 GMT" }), // 30 s later
    refuse(503, "Unavailable", { "Retry-After": "86400" }),
    stream(done(0)),
  );
  const { reconnects } = await read(endpoint);
  assert.deepEqual(
    reconnects.map(({ delayMs }) => delayMs),
    [7_000, 30_000, 300_000],
  );
});

test("a refusal that is no Status, and one without end", async () => {
  const page = await read(new Endpoint(() => new Response("<html>no</html>", { status: 403 })));
  assert.ok(page.error instanceof RunError && page.error.status === 403 && page.error.message === "the endpoint answered 403");
  const endless = new Endpoint(() => new Response(new ReadableStream({ pull: (c) => c.enqueue(new Uint8Array(1024)) }), { status: 404 }));
  const flood = await read(endless);
  assert.ok(flood.error instanceof RunError && flood.error.status === 404);
  assert.equal(endless.open, 0);
});

test("a page is no event stream", async () => {
  const endpoint = new Endpoint(() => new Response("<html>Sign in</html>", { headers: { "Content-Type": "text/html" } }));
  const { error } = await read(endpoint);
  assert.ok(error instanceof RunError && error.message.includes("text/html"));
  assert.equal(endpoint.open, 0);
});

test("an event that is too long ends the reading", async () => {
  const endpoint = new Endpoint(stream(status("E-1-1"), part("E-1-2", "x".repeat(2000)), hang));
  const { error, events } = await read(endpoint, { maxEventLength: 1000 });
  assert.ok(error instanceof RunError && error.message.includes("1000 characters"));
  assert.equal(events.length, 1);
  assert.equal(endpoint.open, 0);
});

test("data that is no JSON ends the reading", async () => {
  const endpoint = new Endpoint(stream("event: title\ndata: {oops\n\n", hang));
  const { error } = await read(endpoint);
  assert.ok(error instanceof RunError);
  assert.ok(!error.message.includes("oops"), "what came is not repeated");
  assert.equal(endpoint.open, 0);
});

test("an error of the token's own is the caller's", async () => {
  const mine = new Error("signed out");
  const { error } = await read(new Endpoint(stream(done(0))), {
    token: () => {
      throw mine;
    },
  });
  assert.equal(error, mine);
});

/** Where a reading can be when it is aborted. */
const places: [string, Endpoint, Parameters<typeof read>[1]][] = [
  ["before the token", new Endpoint(stream(done(0))), { token: () => new Promise<string>(() => {}) }],
  ["before the header", new Endpoint(() => new Promise<Response>(() => {})), {}],
  ["between two parts", new Endpoint(stream(status("E-1-1"), hang)), {}],
  ["within a refusal", new Endpoint(() => new Response(new ReadableStream(), { status: 404 })), {}],
  ["in a wait", new Endpoint(refuse(503, "Unavailable", { "Retry-After": "60" })), {}],
];
for (const [where, endpoint, more] of places) {
  test(`an abort ends it at once: ${where}`, async () => {
    const controller = new AbortController();
    const reason = new Error("the page was left");
    const reading = read(endpoint, { ...more, signal: controller.signal }, false);
    await settle();
    assert.ok(getEventListeners(controller.signal, "abort").length > 0);
    controller.abort(reason);
    const { error } = await reading;
    assert.equal(error, reason);
    assert.equal(getEventListeners(controller.signal, "abort").length, 0);
    assert.equal(endpoint.open, 0);
  });
}

test("aborted before, it asks nothing", async () => {
  const endpoint = new Endpoint(stream(done(0)));
  const { error } = await read(endpoint, { signal: AbortSignal.abort(new Error("early")) });
  assert.ok(error instanceof Error && error.message === "early");
  assert.equal(endpoint.asked.length, 0);
});

test("an answer that comes after the abort is not left open", async () => {
  let answer = (_: Response): void => {};
  const endpoint = new Endpoint(() => new Promise<Response>((resolve) => (answer = resolve)));
  const controller = new AbortController();
  const reading = read(endpoint, { signal: controller.signal });
  await settle();
  controller.abort();
  await reading;
  let cancelled = false;
  answer(new Response(new ReadableStream({ cancel: () => void (cancelled = true) })));
  await settle();
  assert.ok(cancelled);
});

test("whoever leaves the loop leaves nothing open", async () => {
  const signal = new AbortController().signal;
  const endpoint = new Endpoint(stream(status("E-1-1"), part("E-1-2", "a"), part("E-1-3", "b"), hang));
  for await (const { id } of readRun({ url: "https://chat.example/", fetch: endpoint.fetch, signal })) {
    if (id === "E-1-2") {
      break;
    }
  }
  assert.equal(endpoint.open, 0);
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("a hundred connections leave no listener on the signal", async () => {
  const signal = new AbortController().signal;
  const short = stream(frame("E-1-1", "title", { title: "t" }));
  const endpoint = new Endpoint(...Array(100).fill(short), stream(done(0)));
  const { error } = await read(endpoint, { signal });
  assert.equal(error, undefined);
  assert.equal(endpoint.asked.length, 101);
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("a connection without any bytes is given up", async () => {
  const endpoint = new Endpoint(() => new Promise<Response>(() => {}), stream(status("E-1-1"), hang), stream(done(0)));
  const reading = read(endpoint, { waitMs: 60_000 });
  await settle();
  mock.timers.tick(104_999);
  await settle();
  assert.equal(endpoint.asked.length, 1, "a run that is waited for may be silent for so long more");
  mock.timers.tick(1);
  await settle();
  assert.equal(endpoint.asked.length, 2);
  mock.timers.tick(45_000);
  const { error, reconnects } = await reading;
  assert.equal(error, undefined);
  assert.equal(reconnects.length, 2);
  assert.equal(endpoint.open, 0);
});
