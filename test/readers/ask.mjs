// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// What the scripts here share: how they are told what to read, and how they say
// what they have read, a JSON object a line.

/** ask is what the test asks for. The token comes this way, and never by an argument. */
export const ask = JSON.parse(process.env.READER_ASK);

export const streamURL = `${ask.baseURL}/v1/namespaces/${ask.namespace}/chatruns/${ask.name}/stream`;

export function report(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
