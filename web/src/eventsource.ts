// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import { eventNames } from "./events.js";
import type { RunEvent } from "./read.js";
import { RunError, headersOf, refusalOf, runURL, streamURL } from "./request.js";
import type { Credentials, RunAddress } from "./request.js";

/** Ticket stands in for the reader's credentials, at one run, for an hour. */
export interface Ticket {
  ticket: string;
  /** expiresAt is an RFC 3339 time. */
  expiresAt: string;
}

/** issueTicket asks for a ticket. It throws a RunError when that is refused. */
export async function issueTicket(run: RunAddress & Credentials & { signal?: AbortSignal }): Promise<Ticket> {
  const { fetch = globalThis.fetch, signal = null } = run;
  const response = await fetch(runURL(run, "ticket"), { method: "POST", headers: await headersOf(run), signal, cache: "no-store", redirect: "error", referrerPolicy: "no-referrer" });
  if (!response.ok) {
    throw await refusalOf(response);
  }
  const ticket: unknown = await response.json();
  if (typeof ticket !== "object" || ticket === null || !("ticket" in ticket) || typeof ticket.ticket !== "string") {
    throw new RunError("the endpoint issued no ticket", response.status);
  }
  return ticket as Ticket;
}

/**
 * openEventSource opens the browser's own EventSource, which can send no header,
 * with a ticket. It comes back by itself after a cut, and ends after `done`.
 */
export async function openEventSource(run: RunAddress & Credentials & { signal?: AbortSignal }): Promise<EventSource> {
  const { ticket } = await issueTicket(run);
  return new EventSource(`${streamURL(run)}?ticket=${encodeURIComponent(ticket)}`);
}

/** listen hands over every event of an EventSource, and closes it after `done`. */
export function listen(source: EventSource, listener: (event: RunEvent) => void): void {
  for (const name of eventNames) {
    source.addEventListener(name, ({ lastEventId, data }: MessageEvent<string>) => {
      if (name === "done") {
        source.close();
      }
      listener({ id: lastEventId, event: name, data: JSON.parse(data) } as RunEvent);
    });
  }
}
