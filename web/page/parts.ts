// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import type { Summary } from "../src/index.js";

/** part is an element of the page. One that is not there is a mistake of ours. */
export function part<K extends keyof HTMLElementTagNameMap>(kind: K, id: string): HTMLElementTagNameMap[K] {
  const found = document.getElementById(id);
  if (found?.localName !== kind) {
    throw new Error(`the page has no ${kind} ${id}`);
  }
  return found as HTMLElementTagNameMap[K];
}

/** make makes an element with a text. */
export function make<K extends keyof HTMLElementTagNameMap>(kind: K, text = "", className = ""): HTMLElementTagNameMap[K] {
  const made = document.createElement(kind);
  put(made, text);
  if (className !== "") {
    made.className = className;
  }
  return made;
}

/** put sets a text where it is another one: nothing is told anew that did not change. */
export function put(element: HTMLElement, text: string): void {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

/** show shows a text, or hides the element if there is none. */
export function show(element: HTMLElement, text: string): void {
  put(element, text);
  element.hidden = text === "";
}

/** say tells those who do not see the page. */
export function say(text: string): void {
  put(part("div", "said"), text);
}

/** Session is how a view reads, and leaves. */
export interface Session {
  baseURL: URL;
  /** token is undefined where nobody is asked for one. */
  token: (() => string) | undefined;
  /** known is what the list said of runs, by namespace/name. */
  known: Map<string, Summary>;
  /** refused goes back to the sign-in. */
  refused(message: string): void;
}
