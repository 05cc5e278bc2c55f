// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/streamer"
)

// Every text that we write into a status or an Event stands here. They are
// stable (no times, no request ids), so that writing one twice changes nothing,
// and each says what to do where there is something to do.

// maxMessageBytes bounds a message: status.lastError is bounded by the schema,
// and an Event's note by the API server, which refuses a longer one.
const maxMessageBytes = 1000

const (
	streamingMessage  = "An attempt is under way."
	cancelledMessage  = "Cancelled on request."
	suspendedMessage  = "Suspended on request: set spec.desiredState to Running to go on."
	handedOverMessage = "Handed over by the manager that made the last attempt: the one whose turn it is goes on at once."
	resumedMessage    = "The run goes on in a moment."
	notKeptMessage    = "The answer was streamed, and is not kept, as spec.output.storage is None."
)

// completedMessage says where the answer is.
func completedMessage(run *v1alpha1.ChatRun, out *v1alpha1.Output) string {
	if out == nil {
		return "The answer is empty."
	}
	name := out.ConfigMapName + out.SecretName
	switch {
	case storageOf(run) == v1alpha1.StorageNone:
		return notKeptMessage
	case name == "":
		return "The answer is in status.output."
	case valueOr(out.StoredBytes, 0) < valueOr(out.Bytes, 0):
		return fmt.Sprintf("The answer is in %s %q, cut: it keeps the first 900 KiB.", kindOf(storageOf(run)), name)
	default:
		return fmt.Sprintf("The answer is in %s %q.", kindOf(storageOf(run)), name)
	}
}

func retryingMessage(attempt int32, reason string) string {
	return fmt.Sprintf("Attempt %d failed (%s). The next one is not made before status.retryingAt.", attempt, reason)
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

// takenBackMessage is for an attempt that was stopped for what is not asked any
// more.
func takenBackMessage(attempt int32, cause error) string {
	what := "lost with the ownership of the run"
	switch {
	case errors.Is(cause, streamer.ErrSuspended):
		what = "ended by a suspension that was taken back"
	case errors.Is(cause, streamer.ErrDeadline):
		what = "ended at a deadline that was raised"
	case errors.Is(cause, streamer.ErrShutdown):
		what = "ended with the manager that made it"
	}
	return fmt.Sprintf("attempt %d was %s", attempt, what)
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
		if reason := reasonOf(run); reason != "" && reason != v1alpha1.ReasonPending {
			text += " It stood at " + reason + ": " + messageOf(run)
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
)

// refusal is what of the API server's answer people are shown: its message names
// objects, quotas and rights, never what was written.
func refusal(err error) string {
	if errors.Is(err, errForeign) {
		return errForeign.Error()
	}
	status := apierrors.APIStatus(nil)
	if errors.As(err, &status) {
		return status.Status().Message
	}
	return "it could not be written"
}

func outputRefusedMessage(s *sheet, err error) string {
	return bounded(fmt.Sprintf("The answer is there, and %s %q could not be written to keep it: %s", kindOf(s.storage), s.name, refusal(err)))
}

// partRefusedMessage is for an end that does not wait until the API server lets
// its text be kept.
func partRefusedMessage(end string, s *sheet, err error) string {
	return bounded(fmt.Sprintf("%s The text so far could not be kept whole in %s %q: %s", end, kindOf(s.storage), s.name, refusal(err)))
}

func messagesNotKeptMessage(s *sheet, err error) string {
	return bounded(fmt.Sprintf("%s %q, which keeps a copy of the messages, could not be written: %s", kindOf(s.storage), s.name, refusal(err)))
}

const (
	noSourceMessage = "spec.messagesFrom names no source."
	// Either way it cannot be made sure that a retry asks what was asked before.
	messagesChangedMessage = "The copy of the messages that the first attempt asked was deleted, and their source has changed or is gone: create a new ChatRun."
	// It was salted, so that nobody finds out what it was by trying.
	copyLostMessage    = "The copy of the messages that the first attempt asked was deleted: create a new ChatRun."
	copyChangedMessage = "The copy of the messages that the first attempt asked was replaced: create a new ChatRun."

	managerFullMessage     = "The manager makes as many attempts as it may (--max-concurrent-streams)."
	providerFullMessage    = "The provider has as many attempts under way as its spec.limits.maxConcurrentStreams allows."
	providerRefusesMessage = "The provider refuses attempts as there are too many: few are made until it takes more."
)

func messagesInvalidMessage(run *v1alpha1.ChatRun, err error) string {
	if from := run.Spec.MessagesFrom; from != nil && from.ConfigMapKeyRef != nil {
		return bounded(fmt.Sprintf("Key %q of ConfigMap %q holds no messages: %v. Create a new ChatRun when it does.",
			from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Name, err))
	}
	return bounded(fmt.Sprintf("The messages cannot be read: %v.", err))
}

func sourceMissingMessage(name string) string {
	return fmt.Sprintf("ConfigMap %q does not exist: create it in this namespace, and it is found within a minute.", name)
}

func sourceForbiddenMessage(name string) string {
	return fmt.Sprintf("ConfigMap %q may not be read: give the operator's ServiceAccount the right to get ConfigMaps in this namespace.", name)
}

func sourceKeyMissingMessage(name, key string) string {
	return fmt.Sprintf("ConfigMap %q has no key %q: add it, and it is found within a minute.", name, key)
}

func copyForbiddenMessage(storage v1alpha1.OutputStorage, name string) string {
	return fmt.Sprintf("%s %q may not be read: give the operator's ServiceAccount the right to get %ss in this namespace.",
		kindOf(storage), name, kindOf(storage))
}

func parentForbiddenMessage(p *v1alpha1.ChatRun) string {
	return fmt.Sprintf("What is kept of ChatRun %q may not be read: give the operator's ServiceAccount the right to get ConfigMaps and Secrets in this namespace.", p.Name)
}

func parentAwaitedMessage(name string) string {
	return fmt.Sprintf("ChatRun %q does not exist yet: create it within a minute, and this run goes on.", name)
}

func parentMissingMessage(name string) string {
	return fmt.Sprintf("ChatRun %q does not exist: create it, then a new ChatRun that goes on from it.", name)
}

func parentGoneMessage(name string) string {
	return fmt.Sprintf("ChatRun %q, which this one was to go on from, was deleted.", name)
}

func parentUnfinishedMessage(name string) string {
	return fmt.Sprintf("ChatRun %q is not finished. This run goes on when it has succeeded.", name)
}

func parentFailedMessage(p *v1alpha1.ChatRun) string {
	return fmt.Sprintf("ChatRun %q did not succeed (%s), so there is no answer to go on from.", p.Name, reasonOf(p))
}

func parentNotKeptMessage(name string) string {
	return fmt.Sprintf("The answer of ChatRun %q is not kept, as its spec.output.storage is None.", name)
}

func parentCutMessage(name string) string {
	return fmt.Sprintf("The answer of ChatRun %q is not kept whole.", name)
}

func parentLostMessage(name string) string {
	return fmt.Sprintf("The messages or the answer of ChatRun %q were deleted.", name)
}

func parentSecretMessage(name string) string {
	return fmt.Sprintf("The answer of ChatRun %q is in a Secret: a run that goes on from it must have Secret or None as spec.output.storage.", name)
}

func cycleMessage(name string) string {
	return fmt.Sprintf("ChatRun %q waits, by way of others or at once, for this run, which waits for it.", name)
}

func conversationTooLongMessage(size int) string {
	return fmt.Sprintf("The former conversation has %d bytes with this run's messages, and %d can be kept: create a new ChatRun with a summary of it.",
		size, v1alpha1.MaxStoredBytes)
}

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
