// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Reads a run with the package `eventsource`, of the major version that is the
// argument. It does not close at `done`: the server's 204 has to end it.
import { ask, report, streamURL } from "./ask.mjs";

const { EventSource } = await import(process.argv[2]);

const source = new EventSource(`${streamURL}?wait=30s`, {
  fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${ask.token}` } }),
});
// Version 5 lets a process end that does nothing but wait to come back.
const alive = setInterval(() => {}, 60_000);
let done = false;
source.addEventListener("message_part", ({ data }) => report({ text: JSON.parse(data).text ?? "" }));
source.addEventListener("reset", () => report({ reset: true }));
source.addEventListener("done", () => (done = true));
source.addEventListener("error", ({ code, message }) => {
  if (source.readyState === EventSource.CLOSED) {
    clearInterval(alive);
    report(done && code === 204 ? { end: true } : { error: `closed: ${code} ${message}` });
  }
});
