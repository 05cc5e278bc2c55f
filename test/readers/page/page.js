// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// The page that page.mjs opens. `report` is the test's, `/web/` the client's.
import { openEventSource, readRun } from "/web/index.js";

const readers = {
  /** EventSource as it comes: it does not close at `done`, the 204 has to end it. */
  async EventSource(ask) {
    const source = await openEventSource(ask);
    let done = false;
    source.addEventListener("message_part", ({ data }) => report({ text: JSON.parse(data).text ?? "" }));
    source.addEventListener("reset", () => report({ reset: true }));
    source.addEventListener("done", () => (done = true));
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) {
        report(done ? { end: true } : { error: "closed before the end" });
      }
    });
  },

  async client(ask) {
    let done = false;
    for await (const { event, data } of readRun(ask)) {
      if (event === "message_part") {
        report({ text: data.text ?? "" });
      } else if (event === "reset") {
        report({ reset: true });
      }
      done = event === "done";
    }
    report(done ? { end: true } : { error: "it ended without done" });
  },
};

window.read = (how, ask) => {
  readers[how](ask).catch((error) => report({ error: String(error) }));
};
