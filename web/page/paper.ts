// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

/** blockLength is about how many characters one block holds. To append costs the layout of one block, however long the text. */
export const blockLength = 4096;

/** Paper shows a text that grows. What it is given is text, and never markup. */
export class Paper {
  readonly #host: HTMLElement;
  #block: HTMLElement | undefined;
  #node: Text | undefined;
  #length = 0;

  constructor(host: HTMLElement) {
    this.#host = host;
  }

  /** append adds text at the end. A new block begins behind a line's end. */
  append(text: string): void {
    while (text !== "") {
      let take = text.length;
      if (this.#length + take > blockLength) {
        const end = text.indexOf("\n", Math.max(0, blockLength - this.#length));
        take = end < 0 ? take : end + 1;
      }
      this.#write(text.slice(0, take));
      if (this.#length >= blockLength && text[take - 1] === "\n") {
        this.#block = undefined;
      }
      text = text.slice(take);
    }
  }

  clear(): void {
    this.#host.replaceChildren();
    this.#block = undefined;
  }

  #write(text: string): void {
    const document = this.#host.ownerDocument;
    if (this.#block === undefined) {
      this.#block = document.createElement("div");
      this.#host.append(this.#block);
      this.#node = undefined;
      this.#length = 0;
    }
    // A node is copied when it grows, so one must not grow for ever: a line may.
    if (this.#node === undefined || this.#node.length > blockLength) {
      this.#node = document.createTextNode("");
      this.#block.append(this.#node);
    }
    this.#node.appendData(text);
    this.#length += text.length;
  }
}
