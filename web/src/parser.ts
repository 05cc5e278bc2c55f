// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

/** Frame is one server-sent event, its data as it came. */
export interface Frame {
  id: string;
  event: string;
  data: string;
}

/** FrameTooLong says that one event is longer than its reader allows. */
export class FrameTooLong extends Error {
  override name = "FrameTooLong";
}

/**
 * FrameParser cuts text into server-sent events, as the HTML standard says
 * (§9.2.6), wherever the text is cut itself. Decoding the bytes, and taking a
 * byte order mark away, is the caller's.
 */
export class FrameParser {
  /** lastEventId is what to come back with: the id of the last whole event. */
  lastEventId: string;
  /** retryMs is the newest wait that the server asked for. */
  retryMs: number | undefined;

  readonly #maxLength: number;
  /** The line that is not at its end, and whether the last one ended by CR. */
  #line = "";
  #afterCR = false;
  /** The event that is not at its end. */
  #id: string;
  #event = "";
  #data: string[] = [];
  #length = 0;

  /** maxLength bounds the characters of one event. */
  constructor(maxLength: number, lastEventId = "") {
    this.#maxLength = maxLength;
    this.lastEventId = this.#id = lastEventId;
  }

  /** push takes the next piece of text, and returns the events that it ends. */
  push(text: string): Frame[] {
    const frames: Frame[] = [];
    let start = 0;
    if (this.#afterCR && text !== "") {
      this.#afterCR = false;
      start = text.startsWith("\n") ? 1 : 0;
    }
    const ends = /[\r\n]/g;
    for (;;) {
      ends.lastIndex = start;
      const end = ends.exec(text)?.index ?? text.length;
      this.#grow(end - start);
      this.#line += text.slice(start, end);
      if (end === text.length) {
        return frames;
      }
      start = end + 1;
      if (text[end] === "\r") {
        this.#afterCR = start === text.length;
        start += text[start] === "\n" ? 1 : 0;
      }
      const line = this.#line;
      this.#line = "";
      if (line !== "") {
        this.#field(line);
      } else {
        this.#dispatch(frames);
      }
    }
  }

  #grow(by: number): void {
    this.#length += by;
    if (this.#length > this.#maxLength) {
      throw new FrameTooLong(`an event of the stream is longer than ${this.#maxLength} characters`);
    }
  }

  #field(line: string): void {
    const colon = line.indexOf(":");
    if (colon === 0) {
      this.#length -= line.length; // a comment is kept nowhere
      return;
    }
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    switch (name) {
      case "data":
        this.#data.push(value);
        break;
      case "event":
        this.#event = value;
        break;
      case "id":
        // One that could not be sent back in a header is none.
        if (/^[\x20-\x7e]*$/.test(value)) {
          this.#id = value;
        }
        break;
      case "retry":
        if (/^\d+$/.test(value)) {
          this.retryMs = Number(value);
        }
        break;
    }
  }

  #dispatch(frames: Frame[]): void {
    this.lastEventId = this.#id;
    if (this.#data.length > 0) {
      frames.push({ id: this.#id, event: this.#event || "message", data: this.#data.join("\n") });
    }
    this.#event = "";
    this.#data = [];
    this.#length = 0;
  }
}
