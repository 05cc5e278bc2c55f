// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import { part, say, show } from "./parts.js";
import type { Session } from "./parts.js";
import { watchRun } from "./run.js";
import { watchRuns } from "./runs.js";
import { hashOf, placeOf, tokenOf } from "./words.js";
import type { Place } from "./words.js";

/** asksNobody says that this endpoint asks nobody who they are. */
const asksNobody = document.documentElement.dataset["signIn"] === "none";
/** The token of this visit stands here and nowhere else. */
let token: string | undefined;
let view = new AbortController();

const signedIn = (): boolean => asksNobody || token !== undefined;

const session: Session = {
  // The page is at ui/ of the endpoint, wherever a proxy puts that.
  baseURL: new URL("..", new URL(location.pathname, location.origin)),
  token: asksNobody ? undefined : () => token ?? "",
  known: new Map(),
  refused: () =>
    signOut(
      "The server does not know this token: it is wrong, or it has expired. Get another one, for instance by kubectl -n team create token reader.",
    ),
};

/** go shows what the address names. */
function go(): void {
  view.abort(new DOMException("another view is shown", "AbortError"));
  view = new AbortController();
  const place = placeOf(location.hash);
  if (place !== undefined) {
    part("input", "namespace").value = place.namespace;
  }
  if (!signedIn() || place === undefined) {
    reveal("sign-in", "Watch the runs of a namespace");
    return;
  }
  const { signal } = view;
  show(part("p", "alert"), "");
  part("input", "open-namespace").value = place.namespace;
  part("input", "open-name").value = place.name;
  const [id, head] = place.name === "" ? (["runs", `Runs of ${place.namespace}`] as const) : (["run", place.name] as const);
  reveal(id, head);
  const watching = place.name === "" ? watchRuns(session, place.namespace, signal) : watchRun(session, place, signal);
  watching.catch((error: unknown) => {
    if (!signal.aborted) {
      show(part("p", "alert"), `This page went wrong: ${String(error)}. Reload it.`);
    }
  });
}

/** reveal shows one of the sections, and leads the reader there. */
function reveal(id: "sign-in" | "runs" | "run", head: string): void {
  for (const section of ["sign-in", "runs", "run"]) {
    part("section", section).hidden = section !== id;
  }
  part("button", "sign-out").hidden = asksNobody || token === undefined;
  const heading = part("h2", `${id}-head`);
  heading.textContent = head;
  document.title = `${head} – ChatRun`;
  say("");
  heading.focus();
}

/** signOut forgets the token, and what was read with it. */
function signOut(message: string): void {
  token = undefined;
  session.known.clear();
  part("input", "token").value = "";
  forget();
  go();
  show(part("p", "alert"), message);
  if (message !== "") {
    part("input", "token").focus();
  }
}

/** forget takes what was read out of the page. */
function forget(): void {
  for (const [kind, id] of [["tbody", "runs-rows"], ["div", "run-answer"], ["div", "run-thoughts"], ["dl", "run-facts"]] as const) {
    part(kind, id).replaceChildren();
  }
  for (const [kind, id] of [["h2", "run-head"], ["p", "run-failed"], ["p", "run-why"], ["strong", "run-count"], ["p", "run-end"]] as const) {
    part(kind, id).textContent = "";
  }
  for (const id of ["open-name", "open-namespace"]) {
    part("input", id).value = "";
  }
}

/** visit changes the address, which shows what it names, also if that is shown already. */
function visit(place: Place): void {
  const hash = hashOf(place);
  if (location.hash === hash) {
    go();
  } else {
    location.hash = hash;
  }
}

part("form", "sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = part("input", "token");
  if (!asksNobody) {
    token = tokenOf(field.value);
    field.value = "";
    if (token === undefined) {
      show(part("p", "alert"), "That is no token: it is empty, or holds blanks or letters that no token has.");
      field.focus();
      return;
    }
  }
  const namespace = part("input", "namespace").value.trim();
  const place = placeOf(location.hash);
  visit(place?.namespace === namespace ? place : { namespace, name: "" });
});

part("form", "open-form").addEventListener("submit", (event) => {
  event.preventDefault();
  visit({ namespace: part("input", "open-namespace").value.trim(), name: part("input", "open-name").value.trim() });
});

part("a", "skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names a place
  part("main", "main").focus();
});

part("button", "sign-out").addEventListener("click", () => signOut(""));
addEventListener("hashchange", go);
// A browser may keep a page that was left, to come back to it.
addEventListener("pagehide", () => !asksNobody && signOut(""));

part("div", "token-field").hidden = asksNobody;
go();
