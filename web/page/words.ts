// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import type { Retry, Summary } from "../src/index.js";

/** Place is what the address of the page names: a namespace, and perhaps a run. */
export interface Place {
  namespace: string;
  name: string;
}

/** placeOf reads the part of the address behind #; undefined names nothing. */
export function placeOf(hash: string): Place | undefined {
  const parts = /^#\/([^/]+)(?:\/([^/]+))?$/.exec(hash);
  try {
    return parts?.[1] === undefined ? undefined : { namespace: decodeURIComponent(parts[1]), name: decodeURIComponent(parts[2] ?? "") };
  } catch {
    return undefined; // a % that encodes nothing
  }
}

/** hashOf is the address of a place. It never holds a token. */
export function hashOf({ namespace, name }: Place): string {
  return `#/${encodeURIComponent(namespace)}${name && `/${encodeURIComponent(name)}`}`;
}

/** tokenOf takes what was pasted for a token; undefined if no header can carry it. */
export function tokenOf(pasted: string): string | undefined {
  const token = pasted.trim().replace(/^(Authorization:\s*)?Bearer\s+/i, "");
  return /^[\x21-\x7e]+$/.test(token) ? token : undefined;
}

/**
 * secondsLeft is how long a retry is waited for still. A clock that is behind the
 * server's must not show more than the whole wait.
 */
export function secondsLeft(retry: { retryingAt: string; delayMs?: number }, now: number): number {
  const left = Math.min(Date.parse(retry.retryingAt) - now, retry.delayMs ?? Infinity);
  return Number.isNaN(left) ? 0 : Math.max(0, Math.ceil(left / 1000));
}

/** retryText is the line that counts down. */
export function retryText(retry: Pick<Retry, "attempt" | "delayMs" | "retryingAt" | "reason">, now: number): string {
  const left = secondsLeft(retry, now);
  const why = `(attempt ${retry.attempt}${retry.reason ? `, ${retry.reason}` : ""})`;
  return left > 0 ? `Retrying in ${left} s ${why}` : `Retrying any moment ${why}`;
}

/** phaseText is what a list says of where a run stands, besides its phase. */
export function phaseText({ phase, reason, lastErrorReason, retryingAt, delayMs, attempt }: Summary, now: number): string {
  switch (phase) {
    case "Retrying":
      return retryingAt === undefined
        ? (lastErrorReason ?? "")
        : retryText({ attempt, retryingAt, delayMs: delayMs ?? Infinity, reason: lastErrorReason ?? "" }, now);
    case "Pending":
    case "Failed":
      return reason !== undefined && reason !== phase ? reason : "";
    default:
      return "";
  }
}

const units: [string, number][] = [
  ["d", 86_400],
  ["h", 3600],
  ["min", 60],
];

/** ageText says how long ago something was, in its largest unit. */
export function ageText(when: string, now: number): string {
  const seconds = Math.max(0, Math.floor((now - Date.parse(when)) / 1000));
  for (const [unit, size] of units) {
    if (seconds >= size) {
      return `${Math.floor(seconds / size)} ${unit} ago`;
    }
  }
  return Number.isNaN(seconds) ? "" : `${seconds} s ago`;
}
