// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { test } from "node:test";

import { FrameParser, FrameTooLong } from "../src/parser.js";
import type { Frame } from "../src/parser.js";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** parse pushes pieces as a connection would bring them. */
function parse(pieces: Uint8Array[], parser = new FrameParser(1000)): { frames: Frame[]; parser: FrameParser } {
  const decoder = new TextDecoder();
  const frames = pieces.flatMap((piece) => parser.push(decoder.decode(piece, { stream: true })));
  return { frames, parser };
}

const all = (text: string): Frame[] => parse([bytes(text)]).frames;

/** Everything that a server may do, in all three kinds of line ends. */
const sample = bytes(
  "\uFEFFretry: 2000\n\n" +
    'id: E-1-1\nevent: status\ndata: {"phase":"Pending"}\n\n' +
    ": keep-alive\n\n" +
    'id:E-1-2\r\nevent:message_part\r\ndata:{"text":"Grüße, 🌊\u2028"}\r\n\r\n' +
    "event: two\rdata: a\rdata: b\rdata\r\r" +
    "color: blue\nid: E-1-3\ndata:  x\n\n" +
    "id: bad\u0000id\ndata: y\n\n" +
    "id: E-1-4\nevent: no data\n\n" +
    "retry: soon\nretry: 3000\n\n" +
    "id: E-1-5\ndata: never ended",
);

const expected: Frame[] = [
  { id: "E-1-1", event: "status", data: '{"phase":"Pending"}' },
  { id: "E-1-2", event: "message_part", data: '{"text":"Grüße, 🌊\u2028"}' },
  { id: "E-1-2", event: "two", data: "a\nb\n" },
  { id: "E-1-3", event: "message", data: " x" },
  { id: "E-1-3", event: "message", data: "y" },
];

function check(pieces: Uint8Array[], where: string): void {
  const { frames, parser } = parse(pieces);
  assert.deepEqual(frames, expected, where);
  assert.equal(parser.lastEventId, "E-1-4", where);
  assert.equal(parser.retryMs, 3000, where);
}

test("a stream is the same, wherever it is cut", () => {
  check([sample], "whole");
  check(Array.from(sample, (byte) => Uint8Array.of(byte)), "byte by byte");
  for (let i = 0; i <= sample.length; i++) {
    check([sample.subarray(0, i), sample.subarray(i)], `cut at ${i}`);
    for (let j = i; j <= sample.length; j += 7) {
      check([sample.subarray(0, i), sample.subarray(i, j), sample.subarray(j)], `cut at ${i} and ${j}`);
    }
  }
});

test("an id counts from the end of its event on", () => {
  const { parser } = parse([bytes("id: A\ndata: 1\n\nid: B\ndata: 2\n")]);
  assert.equal(parser.lastEventId, "A");
  parser.push("\n");
  assert.equal(parser.lastEventId, "B");
});

test("an empty id is one, and what no header can hold is none", () => {
  const parser = new FrameParser(1000, "before");
  parser.push("id: ä\ndata: 1\n\n");
  assert.equal(parser.lastEventId, "before");
  parser.push("id\ndata: 1\n\n");
  assert.equal(parser.lastEventId, "");
});

test("fields without a value, and lines without a colon", () => {
  assert.deepEqual(all("data\n\n"), [{ id: "", event: "message", data: "" }]);
  assert.deepEqual(all("nonsense\ndata:\n\n"), [{ id: "", event: "message", data: "" }]);
  assert.deepEqual(all("event: x\n\ndata: 1\n\n"), [{ id: "", event: "message", data: "1" }]);
});

test("one event is bounded, a stream of them is not", () => {
  const parser = new FrameParser(100);
  for (let i = 0; i < 50; i++) {
    assert.equal(parser.push(`data: ${"x".repeat(80)}\n\n`).length, 1);
  }
  for (let i = 0; i < 50; i++) {
    parser.push(`: ${"comment".repeat(10)}\n`);
  }
  assert.throws(() => parser.push("x".repeat(101)), FrameTooLong);
  const slow = new FrameParser(100);
  assert.throws(() => {
    for (let i = 0; i < 101; i++) {
      slow.push("x");
    }
  }, FrameTooLong);
  const lines = new FrameParser(100);
  assert.throws(() => lines.push("data: 12345\n".repeat(10)), FrameTooLong);
});
