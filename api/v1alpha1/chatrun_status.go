// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Phase is a summary of the conditions in one word.
// +kubebuilder:validation:Enum=Pending;Streaming;Retrying;Suspended;Succeeded;Failed;Cancelled
type Phase string

// The phases.
const (
	PhasePending   Phase = "Pending"
	PhaseStreaming Phase = "Streaming"
	PhaseRetrying  Phase = "Retrying"
	PhaseSuspended Phase = "Suspended"
	PhaseSucceeded Phase = "Succeeded"
	PhaseFailed    Phase = "Failed"
	PhaseCancelled Phase = "Cancelled"
)

// ConditionSucceeded tells how a run goes: Unknown while it is under way, True
// once the answer is there, False if there will be no whole one.
const ConditionSucceeded = "Succeeded"

// Reasons of Succeeded.
const (
	// ReasonPending: Unknown; no attempt was made yet, or the next one is about
	// to be made.
	ReasonPending = "Pending"
	// ReasonQueued: Unknown; no place is free. The message says which are taken:
	// the manager's, the provider's, or those that a provider that refuses attempts
	// is left with.
	ReasonQueued = "Queued"
	// ReasonMessagesNotFound: Unknown; the source that messagesFrom names does not
	// exist, or lacks the key. It is looked for again.
	ReasonMessagesNotFound = "MessagesNotFound"
	// ReasonWaitingForParent: Unknown; the run that continueFrom names is not
	// finished.
	ReasonWaitingForParent = "WaitingForParent"
	// ReasonProviderNotReady: Unknown; the provider is missing or not Ready, or
	// neither it nor the run names a model. The message says what to do; the run
	// goes on by itself afterwards.
	ReasonProviderNotReady = "ProviderNotReady"
	// ReasonStreaming: Unknown; an attempt is under way.
	ReasonStreaming = "Streaming"
	// ReasonRetrying: Unknown; an attempt failed, and the next one is made not
	// before status.retryingAt. The run may be Queued first.
	ReasonRetrying = "Retrying"
	// ReasonSuspended: Unknown; desiredState is Suspended.
	ReasonSuspended = "Suspended"
	// ReasonCompleted: True; the answer came, and is where spec.output.storage says.
	ReasonCompleted = "Completed"
	// ReasonRetriesExhausted: False; the last attempt allowed failed.
	ReasonRetriesExhausted = "RetriesExhausted"
	// ReasonRetryAfterTooLong: False; the provider asks for a wait that is
	// longer than one hour, or that ends after the run's deadline.
	ReasonRetryAfterTooLong = "RetryAfterTooLong"
	// ReasonDeadlineExceeded: False; activeDeadlineSeconds are over.
	ReasonDeadlineExceeded = "DeadlineExceeded"
	// ReasonPendingDeadlineExceeded: False; pendingDeadlineSeconds went by
	// without a first attempt.
	ReasonPendingDeadlineExceeded = "PendingDeadlineExceeded"
	// ReasonCancelled: False; desiredState is Cancelled.
	ReasonCancelled = "Cancelled"

	// ReasonMessagesInvalid: False; what messagesFrom names is no list of messages,
	// or too long.
	ReasonMessagesInvalid = "MessagesInvalid"
	// ReasonMessagesChanged: False; the copy of the messages that the first attempt
	// asked was lost, and their source is another by now.
	ReasonMessagesChanged = "MessagesChanged"
	// ReasonMessagesNotKept: the copy of the messages, which every attempt asks
	// alike, could not be written. Unknown if the API server forbids it, as with a
	// quota: it is tried again. False if something else stands in its place.
	ReasonMessagesNotKept = "MessagesNotKept"
	// ReasonParentNotFound: the run that continueFrom names does not exist. Unknown
	// in the first minute of the run, in case that it is created after it; False
	// then, and at once if it is gone.
	ReasonParentNotFound = "ParentNotFound"
	// ReasonParentFailed: False; the run that continueFrom names failed, or was
	// cancelled.
	ReasonParentFailed = "ParentFailed"
	// ReasonParentUnusable: False; the answer of that run is not to be had, or may
	// not stand where this run would keep it.
	ReasonParentUnusable = "ParentUnusable"
	// ReasonConversationCycle: False; the run would go on from itself.
	ReasonConversationCycle = "ConversationCycle"
	// ReasonConversationTooLong: False; the former conversation is longer than what
	// can be copied.
	ReasonConversationTooLong = "ConversationTooLong"
	// ReasonOutputRefused: False; the answer is there, and the API server refuses
	// to keep it.
	ReasonOutputRefused = "OutputRefused"

	// Every final class of a failure is a reason of its own, False: the attempt
	// failed, and another would fail as well.

	// ReasonAuthenticationFailed: the provider refuses the key.
	ReasonAuthenticationFailed = "AuthenticationFailed"
	// ReasonPermissionDenied: the key is valid, and may not do this.
	ReasonPermissionDenied = "PermissionDenied"
	// ReasonQuotaExhausted: the account has no money or quota left.
	ReasonQuotaExhausted = "QuotaExhausted"
	// ReasonContextLengthExceeded: the question is too long for the model.
	ReasonContextLengthExceeded = "ContextLengthExceeded"
	// ReasonModelNotFound: the provider has no such model for this key.
	ReasonModelNotFound = "ModelNotFound"
	// ReasonInvalidRequest: the provider refuses the request as it is.
	ReasonInvalidRequest = "InvalidRequest"
	// ReasonContentFiltered: the model or a filter refused to answer.
	ReasonContentFiltered = "ContentFiltered"
	// ReasonEmptyAnswer: the model ended properly and said nothing.
	ReasonEmptyAnswer = "EmptyAnswer"
)

// ConditionFinished is True once a run is over, whatever the outcome, with the
// reason of Succeeded. It is absent before.
const ConditionFinished = "Finished"

// The conditions of kstatus, by which Helm, Flux and their kin know whether to
// wait for an object. Each is there, and True, only while it holds, with the
// reason of Succeeded.
const (
	// ConditionReconciling: the run is under way.
	ConditionReconciling = "Reconciling"
	// ConditionStalled: the run failed.
	ConditionStalled = "Stalled"
)

// FinishReason says why the model stopped.
// +kubebuilder:validation:Enum=Stop;Length;Other;Cancelled;DeadlineExceeded
type FinishReason string

// The finish reasons.
const (
	// FinishStop: the answer is complete.
	FinishStop FinishReason = "Stop"
	// FinishLength: the limit of output tokens cut the answer.
	FinishLength FinishReason = "Length"
	// FinishOther: the provider gave a reason that this version does not know.
	FinishOther FinishReason = "Other"
	// FinishCancelled: a cancel cut the answer; the text so far is kept.
	FinishCancelled FinishReason = "Cancelled"
	// FinishDeadlineExceeded: the deadline cut the answer; the text so far is kept.
	FinishDeadlineExceeded FinishReason = "DeadlineExceeded"
)

// MaxInlineOutputBytes is the longest answer, in bytes, that stands whole in
// status.output.text: every write and every watch event of the run carries it.
const MaxInlineOutputBytes = 16 << 10

// MaxStoredBytes is the longest text, in bytes, that is kept in a ConfigMap or
// Secret, which hold 1 MiB at most: of a longer answer the first part, of a
// longer question none.
const MaxStoredBytes = 900 << 10

// StoredText is the key of an answer in the ConfigMap or Secret that holds it.
const StoredText = "text"

// ChatRunStatus says what became of a run.
// +kubebuilder:validation:MinProperties=1
type ChatRunStatus struct {
	// observedGeneration is the generation of the spec that this status tells of.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ObservedGeneration *int64 `json:"observedGeneration,omitempty"`

	// phase sums up the conditions in one word: Pending, Streaming, Retrying,
	// Suspended, Succeeded, Failed or Cancelled.
	// +optional
	Phase Phase `json:"phase,omitempty"`

	// conditions hold Succeeded (Unknown while the run is under way, then True or
	// False, with a reason and a message that says what to do) and, once the run
	// is over, whatever the outcome, Finished. Wait for the end of a run with
	// `kubectl wait --for=condition=Finished`. For Helm, Flux and their kin,
	// Reconciling is there while the run is under way, and Stalled once it failed.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=0
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// attempt is the number of the attempt under way or last made. It is counted
	// before the call is made, and never decreases.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Attempt *int32 `json:"attempt,omitempty"`

	// delayMs is the wait before the next attempt, in milliseconds. It is there
	// while the run waits, also if it is suspended in that wait.
	// +optional
	// +kubebuilder:validation:Minimum=0
	DelayMs *int64 `json:"delayMs,omitempty"`

	// retryingAt is when that wait ends: the next attempt is made not before it,
	// and the run may be Queued first. It is there while the run waits, also if
	// it is suspended in that wait.
	// +optional
	RetryingAt *metav1.MicroTime `json:"retryingAt,omitempty"`

	// lastError is one line that says how the last failed attempt failed. It is
	// kept after success.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	LastError string `json:"lastError,omitempty"`

	// lastErrorReason is the class of that failure, for example Overloaded. It is
	// kept after success.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	LastErrorReason string `json:"lastErrorReason,omitempty"`

	// worker is the name of the replica that executes the run, its owner.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Worker string `json:"worker,omitempty"`

	// suspendedAt is when the present suspension began. It is there only while
	// the run is suspended.
	// +optional
	SuspendedAt *metav1.MicroTime `json:"suspendedAt,omitempty"`

	// suspendedMs is the sum of the former suspensions after the first attempt,
	// in milliseconds.
	// +optional
	// +kubebuilder:validation:Minimum=0
	SuspendedMs *int64 `json:"suspendedMs,omitempty"`

	// model is the model that answers: the run's, or else the provider's default.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Model string `json:"model,omitempty"`

	// parentUID is the UID of the run that continueFrom names, as it was when
	// it was first seen: another that takes its name later is not meant.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	ParentUID string `json:"parentUID,omitempty"`

	// messagesDigest is the SHA-256 of what messagesFrom and continueFrom
	// brought into the question, which every attempt asks alike. It is there
	// once the first attempt started.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	MessagesDigest string `json:"messagesDigest,omitempty"`

	// startTime is when the first attempt started.
	// +optional
	StartTime *metav1.MicroTime `json:"startTime,omitempty"`

	// firstTokenTime is when the first part of the answer came, in the attempt
	// whose answer stands.
	// +optional
	FirstTokenTime *metav1.MicroTime `json:"firstTokenTime,omitempty"`

	// completionTime is when the run was over, whatever the outcome. It never
	// changes once it is set.
	// +optional
	CompletionTime *metav1.MicroTime `json:"completionTime,omitempty"`

	// finishReason is why the answer ended: Stop (it is complete), Length (the
	// limit of tokens cut it), Other (the provider gave a reason that this
	// version does not know), or Cancelled or DeadlineExceeded (the run was cut,
	// and the text so far kept).
	// +optional
	FinishReason FinishReason `json:"finishReason,omitempty"`

	// usage counts the tokens of all attempts that reported them, failed ones
	// too: what was used was paid for.
	// +optional
	Usage *Usage `json:"usage,omitempty"`

	// output is the answer, or what came of it before the run was cancelled or
	// went beyond its deadline, and where it is kept.
	// +optional
	Output *Output `json:"output,omitempty"`
}

// Usage counts tokens as the provider reported them.
// +kubebuilder:validation:MinProperties=1
type Usage struct {
	// inputTokens is how many tokens the model read.
	// +optional
	// +kubebuilder:validation:Minimum=0
	InputTokens *int64 `json:"inputTokens,omitempty"`

	// outputTokens is how many tokens the model wrote.
	// +optional
	// +kubebuilder:validation:Minimum=0
	OutputTokens *int64 `json:"outputTokens,omitempty"`
}

// Output is the answer.
// +kubebuilder:validation:MinProperties=1
type Output struct {
	// text is the answer, up to 16 KiB of it, never cut within a character. It is
	// absent if spec.output.storage is Secret or None.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16384
	Text string `json:"text,omitempty"`

	// bytes is the size of the whole answer, also if less of it is kept.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Bytes *int64 `json:"bytes,omitempty"`

	// truncated says that text holds less than the whole answer.
	// +optional
	Truncated *bool `json:"truncated,omitempty"`

	// storedBytes is how much of the answer stands in the ConfigMap or Secret that
	// is named below: all of it, or of one above 900 KiB the beginning. It is
	// absent if none is named.
	// +optional
	// +kubebuilder:validation:Minimum=0
	StoredBytes *int64 `json:"storedBytes,omitempty"`

	// configMapName names the ConfigMap that holds an answer above 16 KiB, under
	// the key text.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ConfigMapName string `json:"configMapName,omitempty"`

	// secretName names the Secret that holds the answer, under the key text, if
	// spec.output.storage is Secret.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName,omitempty"`
}
