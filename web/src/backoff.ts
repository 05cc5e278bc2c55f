// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

/** Outcome is how a connection ended that is to be followed by another. */
export interface Outcome {
  /** progress says that it brought something new. */
  progress: boolean;
  /** retryAfterMs is what a refusal asked for. */
  retryAfterMs?: number | undefined;
}

/** What is waited where neither the server nor the caller says anything. */
const firstDelayMs = 1_000;
/** No server makes its readers come back faster. */
const leastDelayMs = 100;
/** A Retry-After is obeyed up to here: whoever reads would rather look again. */
const maxRetryAfterMs = 300_000;
/** How far waits are spread, at least, so that readers do not come back as one. */
const spread = 0.25;

/**
 * Backoff says how long to wait between two connections: what the server asked
 * for, and twice as much each time that a connection brought nothing.
 */
export class Backoff {
  /** failures counts connections without progress in a row. */
  failures = 0;
  /** hintMs is the newest `retry:` of the server. */
  hintMs: number | undefined;

  readonly #maxMs: number;

  constructor(maxMs: number) {
    this.#maxMs = maxMs;
  }

  /** next takes the outcome of a connection, and returns the wait after it. */
  next(outcome: Outcome): number {
    this.failures = outcome.progress ? 0 : this.failures + 1;
    const least = Math.min(Math.max(this.hintMs ?? firstDelayMs, leastDelayMs), this.#maxMs);
    const doubled = Math.min(least * 2 ** Math.max(this.failures - 1, 0), this.#maxMs);
    const most = Math.max(doubled, least * (1 + spread));
    const delay = least + Math.random() * (most - least);
    return Math.round(Math.max(delay, Math.min(outcome.retryAfterMs ?? 0, maxRetryAfterMs)));
  }
}

/** retryAfter reads the header of that name: seconds, or a date. */
export function retryAfter(value: string | null, now: number): number | undefined {
  if (value === null) {
    return undefined;
  }
  const seconds = value.trim();
  const ms = /^\d+$/.test(seconds) ? Number(seconds) * 1_000 : Date.parse(seconds) - now;
  return ms > 0 ? ms : undefined; // neither for the past nor for NaN
}
