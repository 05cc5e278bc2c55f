// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

/** RunAddress is where a run is read. */
export interface RunAddress {
  /** baseURL is the stream endpoint, as https://chat.example. */
  baseURL: string | URL;
  namespace: string;
  name: string;
}

/** Credentials go with every request. Functions are asked anew before each. */
export interface Credentials {
  /** token is a bearer token. */
  token?: string | (() => string | Promise<string>);
  headers?: Record<string, string> | (() => Record<string, string> | Promise<Record<string, string>>);
  /** fetch replaces the global one. */
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
}

/** streamURL returns the URL of a run's stream. */
export function streamURL(run: RunAddress): string {
  return runURL(run, "stream");
}

/** runURL returns a URL below a run. */
export function runURL({ baseURL, namespace, name }: RunAddress, what: string): string {
  const base = String(baseURL).replace(/\/+$/, "");
  return `${base}/v1/namespaces/${encodeURIComponent(namespace)}/chatruns/${encodeURIComponent(name)}/${what}`;
}

/** headersOf asks for the headers of one request. */
export async function headersOf({ token, headers }: Credentials): Promise<Headers> {
  const all = new Headers(typeof headers === "function" ? await headers() : headers);
  if (token !== undefined) {
    all.set("Authorization", `Bearer ${typeof token === "function" ? await token() : token}`);
  }
  return all;
}

/** RunError ends the reading for good: another try would meet the same. */
export class RunError extends Error {
  override name = "RunError";
  /** status is the HTTP status of the answer, 0 if there was none to blame. */
  readonly status: number;
  /** reason is Kubernetes' word for it, as NotFound; empty if it said none. */
  readonly reason: string;

  constructor(message: string, status = 0, reason = "") {
    super(message);
    this.status = status;
    this.reason = reason;
  }
}

/** isFinal tells refusals that stay from those that pass. */
export function isFinal(status: number): boolean {
  return status < 500 && status !== 408 && status !== 429;
}

/** What is read of a refusal: a Status object has a few hundred bytes. */
const maxRefusal = 16 << 10;

/** refusalOf reads why a request was refused: a Kubernetes Status, or a proxy's page. */
export async function refusalOf(response: Response): Promise<RunError> {
  let said: { message?: unknown; reason?: unknown } = {};
  try {
    const parsed: unknown = JSON.parse(await textOf(response, maxRefusal));
    if (typeof parsed === "object" && parsed !== null) {
      said = parsed;
    }
  } catch {
    // Not ours: its status has to do.
  }
  const message = typeof said.message === "string" ? said.message : `the endpoint answered ${response.status}`;
  return new RunError(message, response.status, typeof said.reason === "string" ? said.reason : "");
}

/** textOf reads at most so many bytes of a body, and drops the rest. */
async function textOf({ body }: Response, most: number): Promise<string> {
  const reader = body?.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (let left = most; reader !== undefined && left > 0; ) {
    const { value, done } = await reader.read();
    if (done) {
      break;
    }
    text += decoder.decode(value.subarray(0, left), { stream: true });
    left -= value.length;
  }
  await reader?.cancel();
  return text;
}
