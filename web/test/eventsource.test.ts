// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { RunError, issueTicket, listen, openEventSource } from "../src/index.js";
import type { RunEvent } from "../src/index.js";
import { Endpoint, refuse } from "./endpoint.js";

/** What Node 20 does not have: as much of a browser's EventSource as is used. */
class FakeEventSource extends EventTarget {
  closed = false;

  constructor(readonly url: string) {
    super();
  }

  close(): void {
    this.closed = true;
  }

  receive(name: string, lastEventId: string, data: unknown): void {
    this.dispatchEvent(Object.assign(new Event(name), { lastEventId, data: JSON.stringify(data) }));
  }
}

const before = globalThis.EventSource;
beforeEach(() => {
  globalThis.EventSource = FakeEventSource as unknown as typeof EventSource;
});
afterEach(() => {
  globalThis.EventSource = before;
});

const run = { baseURL: "https://chat.example", namespace: "ns", name: "run", token: "secret" };
const { signal } = new AbortController();

test("an EventSource has a ticket for its credentials", async () => {
  const endpoint = new Endpoint(() => Response.json({ ticket: "a+b/c=", expiresAt: "2026-01-02T15:04:05Z" }, { status: 201 }));
  const source = (await openEventSource({ ...run, signal, fetch: endpoint.fetch })) as unknown as FakeEventSource;
  assert.equal(source.url, "https://chat.example/v1/namespaces/ns/chatruns/run/stream?ticket=a%2Bb%2Fc%3D");
  const [asked] = endpoint.asked;
  assert.equal(asked?.url.href, "https://chat.example/v1/namespaces/ns/chatruns/run/ticket");
  assert.equal(asked?.method, "POST");
  assert.equal(asked?.headers.get("Authorization"), "Bearer secret");
});

test("a refusal, or an answer without a ticket", async () => {
  const refused = issueTicket({ ...run, signal, fetch: new Endpoint(refuse(403, "Forbidden")).fetch });
  await assert.rejects(refused, (error) => error instanceof RunError && error.status === 403 && error.reason === "Forbidden");
  for (const answer of [{}, null, { ticket: 7 }, "ticket"]) {
    const odd = issueTicket({ ...run, signal, fetch: new Endpoint(() => Response.json(answer)).fetch });
    await assert.rejects(odd, RunError);
  }
});

test("its events are those of readRun, and done closes it", () => {
  const source = new FakeEventSource("");
  const events: RunEvent[] = [];
  listen(source as unknown as EventSource, (event) => events.push(event));
  source.receive("message_part", "E-1-1", { role: "assistant", text: "a" });
  source.receive("later", "E-1-2", {});
  assert.equal(source.closed, false);
  source.receive("done", "end-u", { phase: "Succeeded" });
  assert.equal(source.closed, true);
  assert.deepEqual(
    events.map(({ id, event }) => `${id} ${event}`),
    ["E-1-1 message_part", "end-u done"],
  );
});
