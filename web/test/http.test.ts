// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import type { ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import { readRun } from "../src/index.js";
import type { RunEvent } from "../src/index.js";
import { done, part, status } from "./endpoint.js";

/** serve answers the n-th request on a real connection, with the platform's own fetch at its other end. */
async function serve(answer: (response: ServerResponse, n: number) => void): Promise<{ url: string; quiet: () => Promise<void> }> {
  const responses: Promise<unknown>[] = [];
  const server = createServer((_, response) => {
    responses.push(once(response, "close"));
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    answer(response, responses.length);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    /** quiet waits until no request is under way any more, and ends the server. */
    async quiet() {
      await Promise.all(responses);
      server.close();
      server.closeAllConnections(); // fetch keeps a spare one
    },
  };
}

test("a socket that is cut within a character", { timeout: 10_000 }, async () => {
  const text = "Grüße, 🌊";
  const bytes = Buffer.from("retry: 100\n\n" + status("E-1-1") + part("E-1-2", text));
  const { url, quiet } = await serve((response, n) => {
    if (n === 1) {
      response.write(bytes.subarray(0, bytes.indexOf("🌊") + 2), () => response.socket?.destroy());
    } else {
      response.end(part("E-1-2", text) + done(text.length));
    }
  });
  let got = "";
  for await (const event of readRun({ url })) {
    got += event.event === "message_part" ? (event.data.text ?? "") : "";
  }
  assert.equal(got, text);
  await quiet();
});

test("breaking off, aborting and ending close the connection", { timeout: 10_000 }, async () => {
  const { url, quiet } = await serve((response) => response.write(status("E-1-1") + part("E-1-2", "a")));
  for await (const event of readRun({ url })) {
    if (event.event === "message_part") {
      break;
    }
  }
  const controller = new AbortController();
  const events: RunEvent[] = [];
  await assert.rejects(async () => {
    for await (const event of readRun({ url, signal: controller.signal })) {
      events.push(event);
      setImmediate(() => controller.abort());
    }
  }, { name: "AbortError" });
  assert.ok(events.length > 0);
  await quiet();
});
