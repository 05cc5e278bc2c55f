// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

export * from "./events.js";
export { readRun } from "./read.js";
export type { ReadOptions, Reconnect, RunEvent, Settings } from "./read.js";
export { RunError, streamURL } from "./request.js";
export type { Credentials, RunAddress } from "./request.js";
export { applyEvent, draftOf, emptyDraft } from "./draft.js";
export type { Draft } from "./draft.js";
export { issueTicket, listen, openEventSource } from "./eventsource.js";
export type { Ticket } from "./eventsource.js";
