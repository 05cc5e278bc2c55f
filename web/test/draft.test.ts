// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { test } from "node:test";

import { applyEvent, draftOf, emptyDraft, eventNames } from "../src/index.js";
import type { Draft, Name, Retry, RunEvent, Status } from "../src/index.js";

const status: Status = { namespace: "ns", name: "run", uid: "u", phase: "Streaming", attempt: 1 };
const retry: Retry = { attempt: 1, delayMs: 1000, error: "overloaded", retryingAt: "2026-01-02T15:04:05Z" };
const part = (text: string): RunEvent => ({ id: "", event: "message_part", data: { role: "assistant", text } });

function draft(...events: RunEvent[]): Draft {
  return events.reduce(applyEvent, emptyDraft);
}

test("parts make the text, a reset drops it", () => {
  const reasoning: RunEvent = { id: "", event: "message_part", data: { role: "assistant", reasoning: "hm" } };
  const before = draft(reasoning, part("Hel"), part("lo"));
  assert.equal(before.text, "Hello");
  assert.equal(before.reasoning, "hm");
  const after = applyEvent(before, { id: "", event: "reset", data: { attempt: 2 } });
  assert.deepEqual([after.text, after.reasoning], ["", ""]);
  assert.equal(before.text, "Hello", "a draft does not change");
});

test("a retry is pending until something shows that it is not", () => {
  const pending = draft(part("a"), { id: "", event: "status", data: status }, { id: "", event: "retry", data: retry });
  assert.equal(pending.retry, retry);
  assert.equal(pending.text, "a", "the text stands until the reset");
  const ends: RunEvent[] = [
    { id: "", event: "status", data: status },
    { id: "", event: "reset", data: { attempt: 2 } },
    part("b"),
    { id: "", event: "failed", data: { reason: "RetriesExhausted", message: "" } },
    { id: "", event: "done", data: { ...status, bytes: 0 } },
  ];
  for (const event of ends) {
    assert.equal(applyEvent(pending, event).retry, undefined, event.event);
  }
});

test("title, usage, failure and end", () => {
  const titled = draft({ id: "", event: "status", data: { ...status, title: "T" } }, { id: "", event: "status", data: status });
  assert.equal(titled.title, "T", "a status without a title takes none away");
  const ended = draft(
    { id: "", event: "title", data: { title: "Sea" } },
    { id: "", event: "usage", data: { inputTokens: 1, outputTokens: 2 } },
    { id: "", event: "failed", data: { reason: "QuotaExhausted", message: "no money" } },
    { id: "", event: "done", data: { ...status, phase: "Failed", bytes: 0 } },
  );
  assert.equal(ended.title, "Sea");
  assert.equal(ended.usage?.outputTokens, 2);
  assert.equal(ended.failed?.reason, "QuotaExhausted");
  assert.equal(ended.done?.phase, "Failed");
  assert.equal(ended.status?.phase, "Failed");
});

test("a failure of the relay is over once the run goes on", () => {
  // It has no id, and no done follows it: the run was only out of reach.
  const failed = draft(part("a"), { id: "", event: "failed", data: { reason: "OwnerUnreachable", message: "" } });
  assert.equal(failed.failed?.reason, "OwnerUnreachable");
  const goes: RunEvent[] = [
    { id: "", event: "status", data: status },
    { id: "", event: "reset", data: { attempt: 2 } },
    { id: "", event: "retry", data: retry },
    part("b"),
  ];
  for (const event of goes) {
    assert.equal(applyEvent(failed, event).failed, undefined, event.event);
  }
});

test("draftOf gives a draft an event", async () => {
  async function* events(): AsyncGenerator<RunEvent> {
    yield part("a");
    yield part("b");
  }
  const texts: string[] = [];
  for await (const { text } of draftOf(events())) {
    texts.push(text);
  }
  assert.deepEqual(texts, ["a", "ab"]);
});

test("an event's name tells the type of its data", () => {
  // Compiling is most of this test.
  const when = (event: RunEvent): string => (event.event === "retry" ? event.data.retryingAt : event.event);
  assert.equal(when({ id: "", event: "retry", data: retry }), retry.retryingAt);
  const names: Record<Name, true> = {
    status: true,
    message_part: true,
    retry: true,
    reset: true,
    title: true,
    usage: true,
    failed: true,
    done: true,
  };
  assert.deepEqual(Object.keys(names), [...eventNames]);
});
