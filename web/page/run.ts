// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import { RunError, applyEvent, emptyDraft, readRun } from "../src/index.js";
import type { Draft, RunEvent, Summary } from "../src/index.js";
import { Paper } from "./paper.js";
import { make, part, put, say, show } from "./parts.js";
import type { Session } from "./parts.js";
import { hashOf, retryText } from "./words.js";
import type { Place } from "./words.js";

/** waitMs is how long a run is waited for that is not there yet. */
const waitMs = 60_000;
/** nearEnd is how many pixels above the end one still counts as reading along. */
const nearEnd = 60;

/** watchRun shows one run until the signal. */
export async function watchRun(session: Session, place: Place, signal: AbortSignal): Promise<void> {
  part("a", "run-back").href = hashOf({ ...place, name: "" });
  const view = new View(place, session.known.get(`${place.namespace}/${place.name}`));
  const ticking = setInterval(() => view.count(), 1_000);
  part("button", "run-copy").addEventListener("click", () => void view.copy(), { signal });
  try {
    const events = readRun({
      ...place,
      baseURL: session.baseURL,
      ...(session.token && { token: session.token }),
      signal,
      waitMs,
      onReconnect: ({ delayMs, cause }) => view.lost(delayMs, cause),
    });
    for await (const event of events) {
      signal.throwIfAborted(); // the page shows something else by now
      view.take(event);
    }
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof RunError)) {
      throw error;
    }
    if (error.status === 401) {
      session.refused("");
      return;
    }
    view.refused(error);
  } finally {
    clearInterval(ticking);
    if (signal.aborted) {
      view.leave();
    } else {
      view.flush();
    }
  }
}

/** View is what is shown of a run. */
class View {
  readonly #place: Place;
  /** #known is what the list said of the run, if one came from there. */
  readonly #known: Summary | undefined;
  readonly #answer = new Paper(part("div", "run-answer"));
  readonly #thoughts = new Paper(part("div", "run-thoughts"));
  #draft: Draft = emptyDraft;
  /** #text and #reasoning came and are not shown yet: a frame shows all that came in it. */
  #text = "";
  #reasoning = "";
  #frame: number | undefined;
  #told = "";
  #refusal = "";

  constructor(place: Place, known: Summary | undefined) {
    this.#place = place;
    this.#known = known;
    this.#answer.clear();
    this.#thoughts.clear();
    show(part("p", "run-link"), "Connecting …");
    this.#write();
  }

  take(event: RunEvent): void {
    this.#draft = applyEvent(this.#draft, event);
    show(part("p", "run-link"), "");
    switch (event.event) {
      case "message_part":
        this.#text += event.data.text ?? "";
        this.#reasoning += event.data.reasoning ?? "";
        break;
      case "reset":
        this.#text = this.#reasoning = "";
        this.#answer.clear();
        this.#thoughts.clear();
        break;
    }
    this.#frame ??= requestAnimationFrame(() => this.flush());
    if (event.event !== "message_part") {
      this.#tell(event);
    }
  }

  /** leave shows no more: the page shows something else. */
  leave(): void {
    if (this.#frame !== undefined) {
      cancelAnimationFrame(this.#frame);
      this.#frame = undefined;
    }
  }

  /** flush shows what came. */
  flush(): void {
    this.leave();
    const page = document.documentElement;
    const along = this.#text !== "" && page.scrollHeight - page.clientHeight - page.scrollTop < nearEnd;
    this.#answer.append(this.#text);
    this.#thoughts.append(this.#reasoning);
    this.#text = this.#reasoning = "";
    this.#write();
    if (along) {
      page.scrollTop = page.scrollHeight;
    }
  }

  /** count writes the wait that is left. */
  count(): void {
    const { retry } = this.#draft;
    part("div", "run-retry").hidden = retry === undefined;
    if (retry !== undefined) {
      put(part("strong", "run-count"), retryText(retry, Date.now()));
      put(part("p", "run-why"), `${retry.error}. The next attempt is at ${new Date(retry.retryingAt).toLocaleTimeString()}.`);
    }
  }

  lost(delayMs: number, cause: Error): void {
    show(part("p", "run-link"), `The connection was lost (${cause.message}). Trying again in ${Math.max(1, Math.round(delayMs / 1000))} s.`);
  }

  refused(error: RunError): void {
    const help =
      error.status === 403
        ? ` To read it you need the role chatrun-stream-reader in the namespace ${this.#place.namespace}.`
        : error.status === 404
          ? ` It was waited for ${waitMs / 1000} s. Reload to wait again, or look at the list.`
          : "";
    show(part("p", "run-link"), "");
    this.#refusal = `${error.message}.${help}`;
    say(this.#refusal);
  }

  async copy(): Promise<void> {
    try {
      await navigator.clipboard.writeText(this.#draft.text);
      say("The answer was copied.");
    } catch {
      say("The browser does not let this page copy.");
    }
  }

  #write(): void {
    const { status, title, usage, failed, done, text, reasoning } = this.#draft;
    const name = title || this.#place.name;
    put(part("h2", "run-head"), name);
    document.title = `${name} – ChatRun`;
    const facts: [string, string][] = [
      ["Run", `${this.#place.namespace}/${this.#place.name}`],
      ["Phase", status?.phase ?? "not known yet"],
      ["Attempt", status === undefined ? "" : status.attempt === 0 ? "none yet" : String(status.attempt)],
      ["Provider", this.#known?.provider ?? ""],
      ["Model", status?.model ?? ""],
      ["Created", this.#known === undefined ? "" : new Date(this.#known.createdAt).toLocaleString()],
      ["Tokens", usage === undefined ? "" : `${usage.inputTokens} in, ${usage.outputTokens} out`],
      ["Finished because", done?.finishReason ?? ""],
    ];
    layFacts(facts.filter(([, value]) => value !== ""));
    this.count();
    show(part("p", "run-failed"), failed === undefined ? this.#refusal : `Failed: ${failed.reason}. ${failed.message}`);
    part("details", "run-reasoning").hidden = reasoning === "";
    part("button", "run-copy").hidden = text === "" || done === undefined;
    show(part("p", "run-end"), endText(this.#draft));
  }

  /** #tell says what happened to who cannot see it: not each token, and not each second. */
  #tell({ event }: RunEvent): void {
    const { status, retry, failed, done } = this.#draft;
    let text = this.#told;
    if (done !== undefined) {
      text = failed === undefined ? `${done.phase}. ${endText(this.#draft)}` : `Failed: ${failed.reason}. ${failed.message}`;
    } else if (retry !== undefined) {
      text = retryText(retry, Date.now());
    } else if (status !== undefined && (event === "status" || event === "reset")) {
      text = status.attempt === 0 ? status.phase : `${status.phase}, attempt ${status.attempt}`;
    }
    if (text !== this.#told) {
      this.#told = text;
      say(text);
    }
  }
}

/** endText says how much there is when all is there. */
function endText({ done, status, text }: Draft): string {
  if (done === undefined) {
    const why = status?.reason !== undefined && status.reason !== status.phase ? status.message : undefined;
    return status?.phase === "Pending" || status?.phase === "Suspended" ? (why ?? "") : "";
  }
  if (done.truncated) {
    return `Of an answer of ${done.bytes} bytes no more than this is kept.`;
  }
  return text === "" && done.phase !== "Succeeded" ? "There is no answer." : `The answer has ${done.bytes} bytes.`;
}

function layFacts(facts: [string, string][]): void {
  const list = part("dl", "run-facts");
  facts.forEach(([term, value], i) => {
    let line = list.children[i];
    if (line === undefined) {
      line = make("div");
      line.append(make("dt"), make("dd"));
      list.append(line);
    }
    const [head, body] = line.children;
    put(head as HTMLElement, `${term}:`);
    put(body as HTMLElement, value);
  });
  while (list.children.length > facts.length) {
    list.lastElementChild?.remove();
  }
}
