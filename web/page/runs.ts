// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import { RunError } from "../src/index.js";
import type { Summary } from "../src/index.js";
import { pause } from "../src/abort.js";
import { Unavailable, fetchPage } from "./lists.js";
import type { Page } from "./lists.js";
import { make, part, put, show } from "./parts.js";
import type { Session } from "./parts.js";
import { ageText, hashOf, phaseText } from "./words.js";

/** everyMs is how often the list is asked for. The server looks once a second, however many ask. */
const everyMs = 2_000;
/** slowestMs is how long the page waits at most after the server could not be reached. */
const slowestMs = 30_000;
/** maxPages bounds what is asked for each time: 2,000 runs. */
const maxPages = 20;

/** Row is a run in the list. It stays the same element, so that focus stays where it is. */
interface Row {
  summary: Summary;
  line: HTMLTableRowElement;
  link: HTMLAnchorElement;
  name: HTMLElement;
  phase: HTMLElement;
  detail: HTMLElement;
  attempt: HTMLElement;
  provider: HTMLElement;
  model: HTMLElement;
  created: HTMLElement;
}

/** watchRuns shows the runs of a namespace until the signal. */
export async function watchRuns(session: Session, namespace: string, signal: AbortSignal): Promise<void> {
  const body = part("tbody", "runs-rows");
  const note = part("p", "runs-note");
  const more = part("button", "runs-more");
  const rows = new Map<string, Row>();
  let pages: Page[] = [];
  let wanted = 1;
  let hurry = (): void => {};
  body.replaceChildren();
  part("table", "runs-table").hidden = true;
  more.hidden = true;
  show(note, "Reading the list …");
  more.addEventListener("click", () => ((wanted = Math.min(wanted + 1, maxPages)), hurry()), { signal });
  document.addEventListener("visibilitychange", () => document.hidden || hurry(), { signal });
  const ticking = setInterval(() => rows.forEach(tell), 1_000);
  signal.addEventListener("abort", () => clearInterval(ticking));

  for (let failures = 0; ; ) {
    let waitMs = everyMs;
    try {
      pages = await readPages(session, namespace, pages, wanted, signal);
      signal.throwIfAborted(); // the page shows something else by now
      failures = 0;
      const runs = pages.flatMap((page) => page.list.runs);
      lay(body, rows, runs, namespace);
      runs.forEach((run) => session.known.set(`${namespace}/${run.name}`, run));
      part("table", "runs-table").hidden = runs.length === 0;
      more.hidden = (pages.at(-1)?.list.continue ?? "") === "" || wanted >= maxPages;
      show(note, noteOf(pages, runs.length));
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof Unavailable)) {
        stopped(session, note, namespace, error);
        return;
      }
      failures++;
      waitMs = Math.max(error.afterMs ?? 0, Math.min(everyMs * 2 ** failures, slowestMs));
      show(note, `${error.message} What stands here may be old. Trying again in ${Math.round(waitMs / 1000)} s.`);
    }
    await Promise.race([pause(waitMs, signal), new Promise<void>((resolve) => (hurry = resolve))]);
    // Nobody sees a page that is hidden.
    while (document.hidden) {
      await Promise.race([pause(slowestMs, signal), new Promise<void>((resolve) => (hurry = resolve))]);
    }
  }
}

/** readPages asks for all pages that are shown. Each goes on where the one before ends. */
async function readPages(session: Session, namespace: string, known: Page[], wanted: number, signal: AbortSignal): Promise<Page[]> {
  const pages: Page[] = [];
  let after = "";
  do {
    const page = await fetchPage({
      baseURL: session.baseURL,
      ...(session.token && { token: session.token }),
      namespace,
      after,
      known: known[pages.length],
      signal,
    });
    pages.push(page);
    after = page.list.continue ?? "";
  } while (after !== "" && pages.length < wanted);
  return pages;
}

function noteOf(pages: Page[], count: number): string {
  if (count === 0) {
    return "There are no runs in this namespace yet. One that is created shows up here.";
  }
  const last = pages.at(-1)?.list;
  const rest = last?.continue ? " There are more." : last?.truncated ? " There are more, which are not listed." : "";
  return `${count} ${count === 1 ? "run" : "runs"}, the newest first.${rest}`;
}

/** stopped says why there is no list, and what to do. */
function stopped(session: Session, note: HTMLElement, namespace: string, error: unknown): void {
  if (!(error instanceof RunError)) {
    throw error;
  }
  if (error.status === 401) {
    session.refused("");
  } else if (error.status === 403) {
    show(
      note,
      `${error.message}. To see the list you need the role chatrun-viewer in the namespace ${namespace}. A run whose stream you may read you can open by its name.`,
    );
  } else {
    show(note, error.message);
  }
}

/** lay puts the runs into the table, with as few changes as there are. */
function lay(body: HTMLElement, rows: Map<string, Row>, runs: Summary[], namespace: string): void {
  const gone = new Set(rows.keys());
  let at = body.firstElementChild;
  for (const summary of runs) {
    gone.delete(summary.uid);
    let row = rows.get(summary.uid);
    if (row === undefined) {
      row = newRow(summary, namespace);
      rows.set(summary.uid, row);
    }
    row.summary = summary;
    tell(row);
    if (row.line === at) {
      at = at.nextElementSibling;
    } else {
      body.insertBefore(row.line, at);
    }
  }
  for (const uid of gone) {
    rows.get(uid)?.line.remove();
    rows.delete(uid);
  }
}

function newRow(summary: Summary, namespace: string): Row {
  const line = make("tr");
  const link = make("a");
  link.href = hashOf({ namespace, name: summary.name });
  const row: Row = {
    summary,
    line,
    link,
    name: make("span", "", "note"),
    phase: make("span"),
    detail: make("span", "", "note"),
    attempt: make("td"),
    provider: make("td"),
    model: make("td"),
    created: make("td"),
  };
  const first = make("td");
  first.append(link, row.name);
  const second = make("td");
  second.append(row.phase, row.detail);
  // A table that is laid out otherwise, as in a narrow window, stays one for those who
  // do not see it.
  line.role = "row";
  for (const cell of [first, second, row.attempt, row.provider, row.model, row.created]) {
    cell.role = "cell";
    line.append(cell);
  }
  return row;
}

/** tell writes a row anew. It is called each second, for what counts. */
function tell(row: Row): void {
  const { summary: s } = row;
  const now = Date.now();
  put(row.link, s.title ?? s.name);
  show(row.name, s.title === undefined ? "" : s.name);
  put(row.phase, s.phase);
  row.phase.className = /^\w+$/.test(s.phase) ? s.phase : "";
  show(row.detail, phaseText(s, now));
  put(row.attempt, s.attempt === 0 ? "none yet" : `attempt ${s.attempt}`);
  put(row.provider, s.provider);
  put(row.model, s.model ?? "");
  put(row.created, ageText(s.createdAt, now));
}
