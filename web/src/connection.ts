// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import { abortable } from "./abort.js";
import { retryAfter } from "./backoff.js";
import { FrameParser, FrameTooLong } from "./parser.js";
import type { Frame } from "./parser.js";
import { RunError, isFinal, refusalOf } from "./request.js";
import type { Credentials } from "./request.js";

/** Ask is what one connection asks for. */
export interface Ask {
  url: string;
  headers: Headers;
  fetch: Credentials["fetch"];
  signal: AbortSignal | undefined;
  after: string;
  maxEventLength: number;
  /** silenceMs bounds the wait for the next bytes, headerMs that for the first; 0 is no bound. */
  silenceMs: number;
  headerMs: number;
}

/** News is what the next bytes of a connection bring. */
export type News =
  | { kind: "frames"; frames: Frame[] }
  /** The server has nothing for who stands where we do. */
  | { kind: "nothing" }
  | { kind: "lost"; cause: Error; retryAfterMs?: number | undefined };

/** Connection is one request for a stream. It has to be closed. */
export class Connection {
  /** openedAt is when the stream began; undefined before. */
  openedAt: number | undefined;

  readonly #ask: Ask;
  readonly #controller = new AbortController();
  readonly #parser: FrameParser;
  readonly #decoder = new TextDecoder(); // it takes a byte order mark away
  #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;

  constructor(ask: Ask) {
    this.#ask = ask;
    this.#parser = new FrameParser(ask.maxEventLength, ask.after);
    ask.signal?.throwIfAborted();
    ask.signal?.addEventListener("abort", this.#abort);
  }

  /** hintMs is how long the server wants to be left alone after a cut. */
  get hintMs(): number | undefined {
    return this.#parser.retryMs;
  }

  /** lastEventId is where to go on from. */
  get lastEventId(): string {
    return this.#parser.lastEventId;
  }

  /** next throws what ends the reading for good: a RunError, or the caller's abort. */
  async next(): Promise<News> {
    try {
      return (this.#reader === undefined ? await this.#open() : undefined) ?? (await this.#read(this.#reader!));
    } catch (error) {
      this.#ask.signal?.throwIfAborted();
      if (error instanceof FrameTooLong) {
        throw new RunError(error.message);
      }
      if (error instanceof RunError) {
        throw error;
      }
      return { kind: "lost", cause: error instanceof Error ? error : new Error(String(error)) };
    }
  }

  /** close ends the request, wherever it is. */
  close(): void {
    this.#ask.signal?.removeEventListener("abort", this.#abort);
    this.#controller.abort();
    this.#reader?.cancel().catch(ignore);
  }

  readonly #abort = (): void => this.#controller.abort(this.#ask.signal?.reason);

  /** #open sends the request. It returns news only if no stream comes of it. */
  async #open(): Promise<News | undefined> {
    const { url, headers, after, headerMs, silenceMs, fetch = globalThis.fetch } = this.#ask;
    headers.set("Accept", "text/event-stream");
    if (after !== "") {
      headers.set("Last-Event-ID", after);
    }
    const { signal } = this.#controller;
    const pending = fetch(url, { headers, signal, cache: "no-store", redirect: "error", referrerPolicy: "no-referrer" });
    // A fetch that does not know the signal may answer when nobody waits any more.
    pending.then((late) => {
      if (signal.aborted) {
        late.body?.cancel().catch(ignore);
      }
    }, ignore);
    const response = await this.#within(headerMs, pending);
    if (response.status === 204) {
      return { kind: "nothing" };
    }
    if (!response.ok) {
      const refusal = await this.#within(silenceMs, refusalOf(response));
      if (isFinal(response.status)) {
        throw refusal;
      }
      return { kind: "lost", cause: refusal, retryAfterMs: retryAfter(response.headers.get("Retry-After"), Date.now()) };
    }
    this.#reader = response.body?.getReader();
    const type = response.headers.get("Content-Type") ?? "";
    if (this.#reader === undefined || !/^text\/event-stream\b/i.test(type)) {
      throw new RunError(`the endpoint answered with ${type || "no type"} and not with an event stream`, response.status);
    }
    this.openedAt = Date.now();
    return undefined;
  }

  async #read(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<News> {
    const { value, done } = await this.#within(this.#ask.silenceMs, reader.read());
    if (done) {
      return { kind: "lost", cause: new Error("the connection ended before the run's stream did") };
    }
    return { kind: "frames", frames: this.#parser.push(this.#decoder.decode(value, { stream: true })) };
  }

  /** #within waits for a promise, for so long, and no longer than the request lives. */
  async #within<T>(ms: number, promise: Promise<T>): Promise<T> {
    const giveUp = (): void => this.#controller.abort(new Error(`nothing came for ${ms} ms`));
    const timer = ms > 0 ? setTimeout(giveUp, ms) : undefined;
    try {
      return await abortable(promise, this.#controller.signal);
    } finally {
      clearTimeout(timer);
    }
  }
}

function ignore(): void {}
