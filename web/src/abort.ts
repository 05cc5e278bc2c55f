// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

/** abortable waits for a promise, but no longer than until the signal: then it throws its reason. */
export async function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  let end = (): void => {};
  const ended = new Promise<never>((_, reject) => {
    end = () => reject(signal?.reason);
  });
  if (signal?.aborted) {
    end();
  }
  signal?.addEventListener("abort", end);
  try {
    return await Promise.race([ended, promise]);
  } finally {
    // A signal may live long, and see many waits.
    signal?.removeEventListener("abort", end);
  }
}

/** pause waits, or throws the reason of the signal. */
export async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    await abortable(new Promise<void>((resolve) => (timer = setTimeout(resolve, ms))), signal);
  } finally {
    clearTimeout(timer);
  }
}
