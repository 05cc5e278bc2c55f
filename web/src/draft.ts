// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import type { RunEvent } from "./read.js";
import type { Done, Failed, Retry, Status, Usage } from "./events.js";

/** Draft is what a page shows of a run. It is never changed, but replaced. */
export interface Draft {
  /** text is the answer so far: on `done`, the whole answer. */
  readonly text: string;
  /** reasoning is the model's thinking so far. */
  readonly reasoning: string;
  readonly title: string;
  readonly status: Status | undefined;
  /** retry is the one that is waited for; undefined if none is. */
  readonly retry: Retry | undefined;
  readonly usage: Usage | undefined;
  readonly failed: Failed | undefined;
  /** done is set when nothing more comes. */
  readonly done: Done | undefined;
}

/** emptyDraft is what there is before the first event. */
export const emptyDraft: Draft = {
  text: "",
  reasoning: "",
  title: "",
  status: undefined,
  retry: undefined,
  usage: undefined,
  failed: undefined,
  done: undefined,
};

/** applyEvent returns the draft after an event. */
export function applyEvent(draft: Draft, { event, data }: RunEvent): Draft {
  switch (event) {
    case "status":
      // A retry that is still pending is told anew right after it.
      return { ...draft, status: data, title: data.title ?? draft.title, retry: undefined, failed: undefined };
    case "message_part":
      return {
        ...draft,
        text: draft.text + (data.text ?? ""),
        reasoning: draft.reasoning + (data.reasoning ?? ""),
        retry: undefined,
        failed: undefined,
      };
    case "retry":
      return { ...draft, retry: data, failed: undefined };
    case "reset":
      return { ...draft, text: "", reasoning: "", retry: undefined, failed: undefined };
    case "title":
      return { ...draft, title: data.title };
    case "usage":
      return { ...draft, usage: data };
    case "failed":
      return { ...draft, failed: data, retry: undefined };
    case "done":
      return { ...draft, status: data, title: data.title ?? draft.title, retry: undefined, done: data };
  }
}

/** draftOf gives the draft after each event. */
export async function* draftOf(events: AsyncIterable<RunEvent>): AsyncGenerator<Draft, void, void> {
  let draft = emptyDraft;
  for await (const event of events) {
    draft = applyEvent(draft, event);
    yield draft;
  }
}
