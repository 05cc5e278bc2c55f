// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Reads a run with the client in web/.
import { RunError, draftOf, emptyDraft, readRun } from "../../web/dist/index.js";
import { ask, report } from "./ask.mjs";

let resets = 0;
const counted = async function* (events) {
  for await (const event of events) {
    if (event.event === "reset") {
      resets++;
      report({ reset: true });
    }
    yield event;
  }
};

try {
  let last = emptyDraft;
  for await (const draft of draftOf(counted(readRun({ ...ask, token: () => ask.token, waitMs: 30_000 })))) {
    if (draft.text.length > last.text.length) {
      report({ text: draft.text.slice(last.text.length) });
    }
    last = draft;
  }
  report(last.done ? { end: true } : { error: "it ended without done" });
} catch (error) {
  report({ error: error instanceof RunError ? `refused: ${error.status} ${error.message}` : String(error) });
}
