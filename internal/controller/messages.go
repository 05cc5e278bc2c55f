// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"time"
	"unicode/utf8"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
)

// Every text that we write into a status or an Event stands here. They are
// stable (no times, no request ids), so that writing one twice changes nothing,
// and each says what to do where there is something to do.

// maxMessageBytes bounds a message: status.lastError is bounded by the schema,
// and an Event's note by the API server, which refuses a longer one.
const maxMessageBytes = 1000

const (
	streamingMessage  = "An attempt is under way."
	completedMessage  = "The answer is in status.output."
	cancelledMessage  = "Cancelled on request."
	suspendedMessage  = "Suspended on request: set spec.desiredState to Running to go on."
	handedOverMessage = "The manager that made the last attempt is shutting down; the next one goes on at once."
	truncatedMessage  = "The answer is in status.output, cut: this version keeps the first 16 KiB of an answer."
)

func retryingMessage(attempt int32, reason string) string {
	return fmt.Sprintf("Attempt %d failed (%s). The next one is made at status.retryingAt.", attempt, reason)
}

// retryNote is the note of an Event. Repeated ones are folded into the first,
// so it says nothing that only the status can keep up to date.
func retryNote(run *v1alpha1.ChatRun) string {
	delay := time.Duration(valueOr(run.Status.DelayMs, 0)) * time.Millisecond
	return bounded(fmt.Sprintf("Attempt %d failed (%s); the next one follows in %s. %s",
		attemptOf(run), run.Status.LastErrorReason, delay, run.Status.LastError))
}

func workerLostMessage(attempt int32) string {
	return fmt.Sprintf("the outcome of attempt %d was lost with the manager that made it", attempt)
}

func exhaustedMessage(run *v1alpha1.ChatRun, last string) string {
	text := fmt.Sprintf("Attempt %d failed, and spec.retryPolicy.maxAttempts allows %d.",
		attemptOf(run), retryPolicy(run).MaxAttempts)
	if last != "" {
		text += " The last error: " + last
	}
	return bounded(text)
}

func hintMessage(f *chatretry.Failure, hint time.Duration) string {
	return bounded(fmt.Sprintf("The provider asks to wait %s before the next attempt, which is longer than one hour or than the run's deadline. Its error: %s",
		hint.Round(time.Millisecond), f.Message))
}

func deadlineMessage(run *v1alpha1.ChatRun, reason string) string {
	if reason == v1alpha1.ReasonPendingDeadlineExceeded {
		text := fmt.Sprintf("No attempt could start within spec.pendingDeadlineSeconds (%d).", *run.Spec.PendingDeadlineSeconds)
		if reasonOf(run) == v1alpha1.ReasonProviderNotReady {
			text += " It waited, for: " + messageOf(run)
		}
		return bounded(text)
	}
	text := fmt.Sprintf("The run took longer than spec.activeDeadlineSeconds (%d): create a new ChatRun with a longer one, or with a faster model.",
		*run.Spec.ActiveDeadlineSeconds)
	if last := run.Status.LastError; last != "" {
		text += " The last error: " + last
	}
	return bounded(text)
}

func providerMissingMessage(name string) string {
	return fmt.Sprintf("ChatProvider %q does not exist in this namespace: create it, and the run goes on.", name)
}

func providerNotReadyMessage(name, why string) string {
	return bounded(fmt.Sprintf("ChatProvider %q is not ready: %s", name, why))
}

func noModelMessage(name string) string {
	return fmt.Sprintf("No model is named: set spec.defaultModel on ChatProvider %q, and the run goes on, or create a new ChatRun with spec.model.", name)
}

func secretMissingMessage(name string) string {
	return fmt.Sprintf("Secret %q does not exist: create it in this namespace, and it is found within a minute.", name)
}

func secretForbiddenMessage(name string) string {
	return fmt.Sprintf("Secret %q may not be read: give the operator's ServiceAccount the right to get Secrets in this namespace.", name)
}

func keyMissingMessage(secret, key string) string {
	return fmt.Sprintf("Secret %q has no key %q, or an empty one: add it, and it is found within a minute.", secret, key)
}

const (
	acceptedMessage    = "Runs may use this provider. The key itself is tried by the first run alone."
	acceptedNoKey      = "Runs may use this provider. It names no key."
	badCABundleMessage = "spec.caBundle holds no certificate that can be read: put PEM certificates there."
	limitsNotServed    = "spec.limits.maxConcurrentStreams is accepted, and not enforced by this version."
)

// bounded cuts a message at the end of a character.
func bounded(s string) string {
	if len(s) <= maxMessageBytes {
		return s
	}
	return cut(s, maxMessageBytes-len("…")) + "…"
}

// cut returns the longest beginning of s of at most n bytes that does not end
// within a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
