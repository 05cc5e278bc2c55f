// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { afterEach, mock, test } from "node:test";

import { Backoff, retryAfter } from "../src/backoff.js";

afterEach(() => mock.restoreAll());

/** delays returns the waits after outcomes, with the dice at their ends. */
function delays(hintMs: number | undefined, outcomes: { progress: boolean; retryAfterMs?: number }[], maxMs = 60_000): [number, number][] {
  return outcomes.map((_, n) => {
    const at = (dice: number): number => {
      mock.method(Math, "random", () => dice);
      const backoff = new Backoff(maxMs);
      backoff.hintMs = hintMs;
      return outcomes.slice(0, n + 1).reduce((_, outcome) => backoff.next(outcome), 0);
    };
    return [at(0), at(1)];
  });
}

const failed = { progress: false };
const went = { progress: true };

test("waits grow while nothing comes, up to a bound, and never below the hint", () => {
  assert.deepEqual(delays(2000, Array(8).fill(failed)), [
    [2000, 2500],
    [2000, 4000],
    [2000, 8000],
    [2000, 16000],
    [2000, 32000],
    [2000, 60000],
    [2000, 60000],
    [2000, 60000],
  ]);
});

test("progress begins anew", () => {
  assert.deepEqual(delays(undefined, [went, failed, failed, failed, went, failed]), [
    [1000, 1250],
    [1000, 1250],
    [1000, 2000],
    [1000, 4000],
    [1000, 1250],
    [1000, 1250],
  ]);
});

test("hints are bounded on both sides", () => {
  assert.deepEqual(delays(0, [went]), [[100, 125]]);
  assert.deepEqual(delays(86_400_000, [went], 30_000), [[30_000, 37_500]]);
});

test("a thousand failures are no overflow", () => {
  const backoff = new Backoff(60_000);
  for (let i = 0; i < 2000; i++) {
    const delay = backoff.next(failed);
    assert.ok(delay >= 1000 && delay <= 60_000, `${delay}`);
  }
});

test("Retry-After is a floor, and bounded", () => {
  assert.deepEqual(delays(2000, [{ progress: false, retryAfterMs: 7000 }]), [[7000, 7000]]);
  assert.deepEqual(delays(2000, [{ progress: false, retryAfterMs: 10 }]), [[2000, 2500]]);
  assert.deepEqual(delays(2000, [{ progress: false, retryAfterMs: 86_400_000 }]), [[300_000, 300_000]]);
});

test("Retry-After comes as seconds or as a date", () => {
  const now = Date.parse("2026-01-02T15:04:05Z");
  const cases: [string | null, number | undefined][] = [
    [null, undefined],
    ["", undefined],
    ["0", undefined],
    ["7", 7000],
    [" 7 ", 7000],
    ["Fri, 02 Jan 2026 15:04:12 GMT", 7000],
    ["Fri, 02 Jan 2026 15:04:00 GMT", undefined],
    ["soon", undefined],
    ["-7", undefined],
    ["1e9", undefined],
  ];
  for (const [value, want] of cases) {
    assert.equal(retryAfter(value, now), want, String(value));
  }
});
