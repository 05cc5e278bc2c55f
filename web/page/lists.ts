// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import type { RunList } from "../src/index.js";
import { retryAfter } from "../src/backoff.js";
import { headersOf, isFinal, refusalOf } from "../src/request.js";
import type { Credentials } from "../src/request.js";

/** Page is a page of runs, with the tag by which one asks whether it changed. */
export interface Page {
  etag: string;
  list: RunList;
}

/** Unavailable is a refusal that passes. */
export class Unavailable extends Error {
  override name = "Unavailable";
  /** afterMs is how long the server wants to be left alone, if it says so. */
  readonly afterMs: number | undefined;

  constructor(message: string, afterMs: number | undefined) {
    super(message);
    this.afterMs = afterMs;
  }
}

/** Asking says which page of runs is wanted. */
export interface Asking extends Credentials {
  baseURL: string | URL;
  namespace: string;
  /** after is what the page before said; empty is the first. */
  after: string;
  /** known is what one has of that page. */
  known: Page | undefined;
  signal: AbortSignal;
}

/** listTimeoutMs is how long a list may take: the server gives one up after 10 s. */
const listTimeoutMs = 15_000;

/** fetchPage returns a page: the known one if it did not change. It throws a RunError when it is refused for good. */
export async function fetchPage({ baseURL, namespace, after, known, signal, ...credentials }: Asking): Promise<Page> {
  const headers = await headersOf(credentials);
  if (known !== undefined) {
    headers.set("If-None-Match", known.etag);
  }
  const url = new URL(`v1/namespaces/${encodeURIComponent(namespace)}/chatruns`, baseURL);
  if (after !== "") {
    url.searchParams.set("continue", after);
  }
  let response: Response;
  try {
    response = await (credentials.fetch ?? fetch)(url.href, {
      headers,
      // Ours is the only copy: a browser's own would keep answers of one user for the next.
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: AbortSignal.any([signal, AbortSignal.timeout(listTimeoutMs)]),
    });
    if (response.status === 304 && known !== undefined) {
      return known;
    }
    if (response.ok) {
      return { etag: response.headers.get("ETag") ?? "", list: (await response.json()) as RunList };
    }
  } catch (error) {
    signal.throwIfAborted();
    throw new Unavailable(`The server cannot be reached (${error instanceof Error ? error.message : String(error)}).`, undefined);
  }
  const refused = await refusalOf(response);
  throw isFinal(response.status) ? refused : new Unavailable(refused.message, retryAfter(response.headers.get("Retry-After"), Date.now()));
}
