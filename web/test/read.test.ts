// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { readRun } from "../src/index.js";
import { Endpoint, cut, done, frame, hang, part, read, refuse, settle, status, stream } from "./endpoint.js";

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  mock.method(Math, "random", () => 0);
});
afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

const whole = [status("E-1-1"), part("E-1-2", "Hel"), part("E-1-3", "lo"), done(5)];

test("a run is read to its end", async () => {
  const endpoint = new Endpoint(stream("retry: 2000\n\n", ...whole, hang));
  const seen = await read(endpoint);
  assert.equal(seen.error, undefined);
  assert.equal(seen.text, "Hello");
  assert.deepEqual(
    seen.events.map(({ id, event }) => `${id} ${event}`),
    ["E-1-1 status", "E-1-2 message_part", "E-1-3 message_part", "end-u done"],
  );
  assert.equal(endpoint.open, 0);
  assert.equal(endpoint.asked[0]?.headers.get("Accept"), "text/event-stream");
});

test("cut anywhere, it goes on from the last whole event", async () => {
  const sent = new TextEncoder().encode(whole.join(""));
  const ends = whole.reduce<number[]>((ends, f) => [...ends, (ends.at(-1) ?? 0) + f.length], []);
  const ids = [null, "E-1-1", "E-1-2", "E-1-3"];
  for (let at = 0; at < sent.length; at++) {
    const had = ends.filter((end) => end <= at).length;
    for (const [how, last] of [["cut", [cut]], ["a clean end", []]] as const) {
      const endpoint = new Endpoint(stream(sent.subarray(0, at), ...last), stream(...whole.slice(had)));
      const seen = await read(endpoint);
      assert.equal(seen.error, undefined);
      assert.equal(seen.text, "Hello", `${how} at ${at}`);
      assert.equal(seen.events.length, 4, `${how} at ${at}`);
      assert.deepEqual(endpoint.lastEventIds, [null, ids[had]], `${how} at ${at}`);
      assert.equal(endpoint.open, 0);
    }
  }
});

test("a reset drops what was read before", async () => {
  const again = [frame("F-2-0", "reset", { attempt: 2 }), status("F-2-0"), part("F-2-1", "Hello"), done(5)];
  const seen = await read(new Endpoint(stream(status("E-1-1"), part("E-1-2", "Hal"), cut), stream(...again)));
  assert.equal(seen.text, "Hello");
});

test("after, wait, token and headers go with the request", async () => {
  let asked = 0;
  const endpoint = new Endpoint(stream(status("E-1-8"), cut), stream(done(0)));
  const seen = await read(endpoint, {
    url: "https://chat.example/stream?x=1",
    after: "E-1-7",
    waitMs: 30_000,
    token: async () => `token ${++asked}`,
    headers: () => ({ "X-Tenant": "t" }),
  });
  assert.equal(seen.error, undefined);
  const urls = endpoint.asked.map(({ url }) => url.href);
  assert.deepEqual(urls, ["https://chat.example/stream?x=1&wait=30000ms", "https://chat.example/stream?x=1"], "found is found");
  assert.deepEqual(endpoint.lastEventIds, ["E-1-7", "E-1-8"]);
  const headers = endpoint.asked.map((a) => `${a.headers.get("Authorization")} ${a.headers.get("X-Tenant")}`);
  assert.deepEqual(headers, ["Bearer token 1 t", "Bearer token 2 t"]);
});

test("a run has an address", async () => {
  const endpoint = new Endpoint(stream(done(0)));
  for await (const event of readRun({ baseURL: "https://chat.example/x/", namespace: "a/b", name: "c?d", fetch: endpoint.fetch })) {
    assert.equal(event.event, "done");
  }
  assert.equal(endpoint.asked[0]?.url.href, "https://chat.example/x/v1/namespaces/a%2Fb/chatruns/c%3Fd/stream");
});

test("204 is the end", async () => {
  const endpoint = new Endpoint(() => new Response(null, { status: 204 }));
  const seen = await read(endpoint, { after: "end-u" });
  assert.deepEqual([seen.error, seen.events], [undefined, []]);
  assert.deepEqual(endpoint.lastEventIds, ["end-u"]);
});

test("what is not known is passed over", async () => {
  const endpoint = new Endpoint(
    stream(": hello\n\n", frame("E-1-1", "telemetry", { a: 1 }), "event: constructor\ndata: {}\n\n", "data: {}\n\n", cut),
    stream('id: E-1-2\nevent: done\nsize: 7\ndata: {"bytes":0,"new":true}\n\n'),
  );
  const seen = await read(endpoint);
  assert.deepEqual(
    seen.events.map(({ event }) => event),
    ["done"],
  );
  assert.deepEqual(endpoint.lastEventIds, [null, "E-1-1"], "the place moves on all the same");
});

test("waits obey the server's hint, and its farewell", async () => {
  const endpoint = new Endpoint(
    stream("retry: 2000\n\n", part("E-1-1", "a"), cut),
    stream("retry: 2000\n\n", part("E-1-2", "b"), "retry: 7300\n\nevent: status\ndata: {}\n\n"),
    stream(done(2)),
  );
  const seen = await read(endpoint);
  assert.deepEqual(
    seen.reconnects.map(({ delayMs }) => delayMs),
    [2000, 7300],
  );
  assert.deepEqual(endpoint.lastEventIds, [null, "E-1-1", "E-1-2"], "a frame without an id does not move the place");
});

test("waits grow while nothing new comes, and begin anew when it does", async () => {
  mock.method(Math, "random", () => 1);
  const barren = stream("retry: 1000\n\n", status("E-1-0"), cut);
  const replay = stream(frame("E-1-0", "reset", { attempt: 1 }), part("E-1-0", "again"), cut);
  const refused = (): Response => {
    throw new TypeError("connection refused");
  };
  const endpoint = new Endpoint(barren, refused, replay, refuse(503, "Unavailable"), stream(part("E-1-1", "new"), cut), stream(done(0)));
  const seen = await read(endpoint);
  assert.equal(seen.error, undefined);
  assert.deepEqual(
    seen.reconnects.map(({ delayMs, failures }) => [delayMs, failures]),
    [
      [1250, 1],
      [2000, 2],
      [4000, 3],
      [8000, 4],
      [1250, 0],
    ],
  );
});

test("a connection that lived long was no failure", async () => {
  const endpoint = new Endpoint(stream(status("E-1-0"), hang), stream(done(0)));
  const reading = read(endpoint, { silenceMs: 20_000 });
  await settle();
  mock.timers.tick(20_000);
  const seen = await reading;
  assert.deepEqual(
    seen.reconnects.map(({ failures, cause }) => [failures, cause.message]),
    [[0, "nothing came for 20000 ms"]],
  );
  assert.equal(endpoint.open, 0);
});

test("the wait between connections is waited out, and not a moment longer", async () => {
  const endpoint = new Endpoint(stream("retry: 2000\n\n", part("E-1-1", "a"), cut), stream(done(1)));
  const reading = (async () => {
    for await (const event of readRun({ url: "https://chat.example/", fetch: endpoint.fetch })) {
      void event;
    }
  })();
  await settle();
  mock.timers.tick(1999);
  await settle();
  assert.equal(endpoint.asked.length, 1);
  mock.timers.tick(1);
  await reading;
  assert.equal(endpoint.asked.length, 2);
});
