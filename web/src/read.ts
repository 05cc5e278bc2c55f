// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import { abortable, pause } from "./abort.js";
import { Backoff } from "./backoff.js";
import type { Outcome } from "./backoff.js";
import { Connection } from "./connection.js";
import { eventNames } from "./events.js";
import type { EventData, Name } from "./events.js";
import type { Frame } from "./parser.js";
import { RunError, headersOf, streamURL } from "./request.js";
import type { Credentials, RunAddress } from "./request.js";

/** RunEvent is one event of a run's stream. Its `id` is what `after` takes. */
export type RunEvent = { [N in Name]: { id: string; event: N; data: EventData[N] } }[Name];

/** Reconnect tells why readRun lost its connection, and when it makes the next. */
export interface Reconnect {
  delayMs: number;
  /** failures counts the connections in a row that brought nothing new. */
  failures: number;
  cause: Error;
}

/** ReadOptions name a run, by its address or by the whole URL of its stream. */
export type ReadOptions = (RunAddress | { url: string | URL }) & Credentials & Settings;

/** Settings are all optional. */
export interface Settings {
  /** signal ends the reading at once: readRun throws its reason. */
  signal?: AbortSignal;
  /** after is the id of the last event that one has. */
  after?: string;
  /** waitMs is how long a run that does not exist yet is waited for: up to 5 minutes. */
  waitMs?: number;
  /** onReconnect is called when a connection is lost, before the wait. */
  onReconnect?: (reconnect: Reconnect) => void;
  /** maxDelayMs bounds the wait between connections: 60 s. */
  maxDelayMs?: number;
  /** maxEventLength bounds the characters of one event, which may hold a whole answer: 32 Mi. */
  maxEventLength?: number;
  /**
   * silenceMs is how long a connection may bring nothing at all before it is
   * given up: 45 s, as the server sends something every 15 s. 0 is for ever.
   */
  silenceMs?: number;
}

const defaults = { maxDelayMs: 60_000, maxEventLength: 32 << 20, silenceMs: 45_000 };
/** A connection that lived this long counts as one that brought something. */
const healthyMs = 10_000;

/**
 * readRun reads a run's stream to its end, through cut connections. It returns
 * after `done`, or when there is nothing after the event that it was to go on
 * from. It throws a RunError when it is refused for good.
 */
export async function* readRun(options: ReadOptions): AsyncGenerator<RunEvent, void, void> {
  const backoff = new Backoff(options.maxDelayMs ?? defaults.maxDelayMs);
  const place: Place = { id: options.after ?? "", found: false };
  for (;;) {
    const lost = yield* connect(options, place, backoff);
    if (lost === undefined) {
      return;
    }
    const delayMs = backoff.next(lost);
    options.onReconnect?.({ delayMs, failures: backoff.failures, cause: lost.cause });
    await pause(delayMs, options.signal);
  }
}

/** Place is what is kept from one connection to the next. */
interface Place {
  id: string;
  /** found says that the run was there, and is not to be waited for again. */
  found: boolean;
}

interface Lost extends Outcome {
  cause: Error;
}

/** connect reads one connection. It returns how that was lost, or undefined at the end of all. */
async function* connect(options: ReadOptions, place: Place, backoff: Backoff): AsyncGenerator<RunEvent, Lost | undefined, void> {
  const { signal, maxEventLength = defaults.maxEventLength, silenceMs = defaults.silenceMs } = options;
  const waitMs = place.found ? 0 : (options.waitMs ?? 0);
  const connection = new Connection({
    url: urlOf(options, waitMs),
    headers: await abortable(headersOf(options), signal),
    fetch: options.fetch,
    signal,
    after: place.id,
    maxEventLength,
    silenceMs,
    headerMs: silenceMs && silenceMs + waitMs,
  });
  let progress = false;
  let again = false;
  try {
    for (;;) {
      const news = await connection.next();
      place.found ||= connection.openedAt !== undefined;
      backoff.hintMs = connection.hintMs ?? backoff.hintMs;
      switch (news.kind) {
        case "nothing":
          return undefined;
        case "lost":
          progress ||= connection.openedAt !== undefined && Date.now() - connection.openedAt >= healthyMs;
          return { progress, cause: news.cause, retryAfterMs: news.retryAfterMs };
      }
      for (const frame of news.frames) {
        place.id = frame.id;
        const event = eventOf(frame);
        if (event === undefined) {
          continue;
        }
        // What follows a reset was there before: a connection that is cut again
        // and again must not count it as new each time.
        again ||= event.event === "reset";
        progress ||= !again && event.event !== "status";
        yield event;
        if (event.event === "done") {
          return undefined;
        }
      }
      place.id = connection.lastEventId;
    }
  } finally {
    connection.close();
  }
}

function urlOf(options: ReadOptions, waitMs: number): string {
  const url = "url" in options ? String(options.url) : streamURL(options);
  return waitMs > 0 ? `${url}${url.includes("?") ? "&" : "?"}wait=${Math.round(waitMs)}ms` : url;
}

const known: ReadonlySet<string> = new Set(eventNames);

/** eventOf decodes a frame; undefined is an event of a later version. */
function eventOf({ id, event, data }: Frame): RunEvent | undefined {
  if (!known.has(event)) {
    return undefined;
  }
  try {
    return { id, event, data: JSON.parse(data) } as RunEvent;
  } catch {
    throw new RunError(`the data of an event ${event} is not JSON`);
  }
}
