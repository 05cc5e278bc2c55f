// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import { mock } from "node:test";

import { readRun } from "../src/index.js";
import type { ReadOptions, Reconnect, RunEvent } from "../src/index.js";

/** Piece is what a body brings: text, bytes, or one of the ways in which it goes on. */
type Piece = string | Uint8Array | "\0hang" | "\0cut";

/** hang never brings anything more, cut breaks the connection. */
export const hang = "\0hang";
export const cut = "\0cut";

/** Answer is what a request is answered with. */
type Answer = (signal: AbortSignal) => Promise<Response> | Response;

/** Asked is a request as the fake endpoint saw it. */
export interface Asked {
  url: URL;
  headers: Headers;
  method: string;
}

/** Endpoint is a fetch that answers by a script, the last answer for ever. */
export class Endpoint {
  readonly asked: Asked[] = [];
  /** open counts the bodies that are neither at their end nor cancelled. */
  open = 0;
  #answers: Answer[];

  constructor(...answers: Answer[]) {
    this.#answers = answers;
  }

  readonly fetch = async (url: string, init: RequestInit): Promise<Response> => {
    this.asked.push({ url: new URL(url), headers: new Headers(init.headers), method: init.method ?? "GET" });
    const answer = this.#answers.length > 1 ? this.#answers.shift() : this.#answers[0];
    if (answer === undefined || !init.signal) {
      throw new TypeError("not scripted");
    }
    init.signal.throwIfAborted();
    const response = await answer(init.signal);
    return this.#counted(response, init.signal);
  };

  /** lastEventIds are what the requests went on from. */
  get lastEventIds(): (string | null)[] {
    return this.asked.map(({ headers }) => headers.get("Last-Event-ID"));
  }

  #counted(response: Response, signal: AbortSignal): Response {
    if (response.body === null) {
      return response;
    }
    this.open++;
    let counted = true;
    const closed = (): void => {
      this.open -= counted ? 1 : 0;
      counted = false;
    };
    signal.addEventListener("abort", closed, { once: true });
    const reader = response.body.getReader();
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        try {
          const { value, done } = await reader.read();
          if (done) {
            closed();
            controller.close();
          } else {
            controller.enqueue(value);
          }
        } catch (error) {
          closed();
          controller.error(error);
        }
      },
      cancel() {
        closed();
        return reader.cancel();
      },
    });
    return new Response(body, { status: response.status, headers: response.headers });
  }
}

/** stream answers with an event stream. */
export function stream(...pieces: Piece[]): Answer {
  return () => new Response(body(pieces), { headers: { "Content-Type": "text/event-stream" } });
}

/** refuse answers as Kubernetes does. */
export function refuse(code: number, reason: string, headers: Record<string, string> = {}): Answer {
  return () => Response.json({ kind: "Status", code, reason, message: `refused: ${reason}` }, { status: code, headers });
}

function body(pieces: Piece[]): ReadableStream<Uint8Array> {
  const left = [...pieces];
  return new ReadableStream<Uint8Array>({
    pull(controller) {
      const piece = left.shift();
      if (piece === undefined) {
        controller.close();
      } else if (piece === cut) {
        controller.error(new TypeError("terminated"));
      } else if (piece === hang) {
        return new Promise(() => {});
      } else {
        controller.enqueue(typeof piece === "string" ? new TextEncoder().encode(piece) : piece);
      }
      return undefined;
    },
  });
}

const run = { namespace: "ns", name: "run", uid: "u", attempt: 1 };

/** frame writes an event as the server does. */
export function frame(id: string, event: string, data: unknown): string {
  return `id: ${id}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
}

export const status = (id: string): string => frame(id, "status", { ...run, phase: "Streaming" });
export const part = (id: string, text: string): string => frame(id, "message_part", { role: "assistant", text });
export const done = (bytes: number): string => frame("end-u", "done", { ...run, phase: "Succeeded", bytes });

/** Seen is what a reading came to. */
export interface Seen {
  events: RunEvent[];
  text: string;
  reconnects: Reconnect[];
  error: unknown;
}

/** read reads to the end, on a clock that moves on by itself when a connection is waited for. */
export async function read(endpoint: Endpoint, more: Partial<ReadOptions> = {}, moves = true): Promise<Seen> {
  const seen: Seen = { events: [], text: "", reconnects: [], error: undefined };
  const options = {
    url: "https://chat.example/stream",
    fetch: endpoint.fetch,
    ...more,
    onReconnect(reconnect: Reconnect) {
      seen.reconnects.push(reconnect);
      if (moves) {
        setImmediate(() => mock.timers.tick(reconnect.delayMs));
      }
    },
  } as ReadOptions;
  try {
    for await (const event of readRun(options)) {
      seen.events.push(event);
      if (event.event === "message_part") {
        seen.text += event.data.text ?? "";
      } else if (event.event === "reset") {
        seen.text = "";
      }
    }
  } catch (error) {
    seen.error = error;
  }
  return seen;
}

/** settle lets everything happen that needs no clock. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}
