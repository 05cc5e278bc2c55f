// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AnnotationTitle holds a run's title: generated, or set by a person, whose
// title is never overwritten.
const AnnotationTitle = "chatrun.dev/title"

// AnnotationTraceParent holds the trace context that a run is created in, as a W3C
// traceparent: where the operator traces, the run's span is a child of that one.
// Anything else in it is ignored, and the run has a trace of its own.
const AnnotationTraceParent = "chatrun.dev/traceparent"

// LabelConversation ties the runs of one conversation together. The operator
// sets it on a run with continueFrom, and on the run that it goes on from,
// where it is not set: the value is that of the former run, or else that run's
// UID.
const LabelConversation = "chatrun.dev/conversation"

// DesiredState is what to do with a run.
// +kubebuilder:validation:Enum=Running;Suspended;Cancelled
type DesiredState string

// What to do with a run.
const (
	DesiredRunning   DesiredState = "Running"
	DesiredSuspended DesiredState = "Suspended"
	DesiredCancelled DesiredState = "Cancelled"
)

// MessageRole is who speaks in a message.
// +kubebuilder:validation:Enum=system;user;assistant
type MessageRole string

// The roles.
const (
	RoleSystem    MessageRole = "system"
	RoleUser      MessageRole = "user"
	RoleAssistant MessageRole = "assistant"
)

// DefaultMaxAttempts is the schema's default of retryPolicy.maxAttempts.
const DefaultMaxAttempts = 25

// TitlePolicy says whether a title is generated.
// +kubebuilder:validation:Enum=Generate;None
type TitlePolicy string

// The title policies.
const (
	TitleGenerate TitlePolicy = "Generate"
	TitleNone     TitlePolicy = "None"
)

// OutputStorage is where an answer is kept.
// +kubebuilder:validation:Enum=ConfigMap;Secret;None
type OutputStorage string

// The places of an answer.
const (
	StorageConfigMap OutputStorage = "ConfigMap"
	StorageSecret    OutputStorage = "Secret"
	StorageNone      OutputStorage = "None"
)

// ChatRunSpec says what is asked, and what to do with the run. What is asked
// (providerRef, model, system, prompt, messages, messagesFrom, continueFrom,
// parameters) and output are immutable; for another question make another run.
// +kubebuilder:validation:XValidation:rule="(has(self.prompt) ? 1 : 0) + (has(self.messages) ? 1 : 0) + (has(self.messagesFrom) ? 1 : 0) == 1",message="exactly one of prompt, messages and messagesFrom must be set"
// +kubebuilder:validation:XValidation:rule="self.providerRef == oldSelf.providerRef",message="is immutable: create a new ChatRun to ask another provider",fieldPath=".providerRef"
// +kubebuilder:validation:XValidation:rule="has(self.model) == has(oldSelf.model) && (!has(self.model) || self.model == oldSelf.model)",message="is immutable, and can be neither added nor removed: create a new ChatRun to ask another model",fieldPath=".model"
// +kubebuilder:validation:XValidation:rule="has(self.system) == has(oldSelf.system) && (!has(self.system) || self.system == oldSelf.system)",message="is immutable, and can be neither added nor removed: create a new ChatRun to ask something else",fieldPath=".system"
// +kubebuilder:validation:XValidation:rule="has(self.prompt) == has(oldSelf.prompt) && (!has(self.prompt) || self.prompt == oldSelf.prompt)",message="is immutable, and can be neither added nor removed: create a new ChatRun to ask something else",fieldPath=".prompt"
// +kubebuilder:validation:XValidation:rule="has(self.messages) == has(oldSelf.messages) && (!has(self.messages) || self.messages == oldSelf.messages)",message="is immutable, and can be neither added nor removed: create a new ChatRun to ask something else",fieldPath=".messages"
// +kubebuilder:validation:XValidation:rule="has(self.messagesFrom) == has(oldSelf.messagesFrom) && (!has(self.messagesFrom) || self.messagesFrom == oldSelf.messagesFrom)",message="is immutable, and can be neither added nor removed: create a new ChatRun to ask something else",fieldPath=".messagesFrom"
// +kubebuilder:validation:XValidation:rule="has(self.continueFrom) == has(oldSelf.continueFrom) && (!has(self.continueFrom) || self.continueFrom == oldSelf.continueFrom)",message="is immutable, and can be neither added nor removed: create a new ChatRun to ask something else",fieldPath=".continueFrom"
// +kubebuilder:validation:XValidation:rule="has(self.output) == has(oldSelf.output) && (!has(self.output) || self.output == oldSelf.output)",message="is immutable, and can be neither added nor removed: create a new ChatRun to keep the answer elsewhere",fieldPath=".output"
// +kubebuilder:validation:XValidation:rule="has(self.parameters) == has(oldSelf.parameters) && (!has(self.parameters) || self.parameters == oldSelf.parameters)",message="is immutable, and can be neither added nor removed: create a new ChatRun to ask in another way",fieldPath=".parameters"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.desiredState) || oldSelf.desiredState != 'Cancelled' || (has(self.desiredState) && self.desiredState == 'Cancelled')",message="is final once it is Cancelled: create a new ChatRun to ask again",fieldPath=".desiredState"
// +kubebuilder:validation:XValidation:rule="!has(self.activeDeadlineSeconds) || (has(oldSelf.activeDeadlineSeconds) && self.activeDeadlineSeconds >= oldSelf.activeDeadlineSeconds)",message="may only be raised or removed, not lowered or added",fieldPath=".activeDeadlineSeconds"
type ChatRunSpec struct {
	// providerRef names the ChatProvider, in the run's namespace, that answers.
	// It may appear later than the run, which waits for it. Immutable.
	// +required
	ProviderRef ProviderReference `json:"providerRef,omitempty,omitzero"`

	// model is the model to ask. Unset, it is the provider's defaultModel as it
	// stands when an attempt starts; status.model tells which it was. Immutable.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[!-~]+$')",message="must be printable ASCII without spaces"
	Model string `json:"model,omitempty"`

	// system is the instruction that the model gets before the conversation, at
	// most 131072 characters. Immutable.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=131072
	System string `json:"system,omitempty"`

	// prompt is the question, at most 262144 characters: the short form of one
	// message of the user. Exactly one of prompt, messages and messagesFrom is
	// set. Immutable.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=262144
	Prompt string `json:"prompt,omitempty"`

	// messages are a conversation written out in the run itself, at most 256
	// messages and 524288 characters; the last is the user's. Exactly one of
	// prompt, messages and messagesFrom is set. Immutable.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:XValidation:rule="size(self) == 0 || self[size(self) - 1].role == 'user'",message="the last message must have the role user"
	// +kubebuilder:validation:XValidation:rule="self.map(m, size(m.content)).sum() <= 524288",message="the messages together must be at most 524288 characters"
	Messages []Message `json:"messages,omitempty"`

	// messagesFrom names where the messages stand, for conversations that are too
	// long for the object. They are read once, when the first attempt starts; a
	// later change of their source changes nothing. Exactly one of prompt,
	// messages and messagesFrom is set. Immutable.
	// +optional
	MessagesFrom *MessagesSource `json:"messagesFrom,omitempty"`

	// continueFrom names a run in the same namespace whose conversation this one
	// goes on with: the model is asked with what that run asked, its answer, and
	// then the messages of this run. A system instruction of this run stands in
	// for the former one. The run waits until the named one has succeeded; if it
	// did not, or is gone, this one fails with ParentFailed or ParentNotFound.
	// Immutable.
	// +optional
	ContinueFrom *RunReference `json:"continueFrom,omitempty"`

	// parameters shape the answer. For those left out the provider's defaults
	// stand. Immutable.
	// +optional
	Parameters *Parameters `json:"parameters,omitempty"`

	// retryPolicy says how often and at what intervals a transient failure is
	// tried again. The wait after the first failed attempt is initialDelayMs; it
	// doubles with each further one up to maxDelayMs, and is never shorter than
	// the provider asks for. A change counts from the next failure on.
	// +optional
	// +default={}
	RetryPolicy *RetryPolicy `json:"retryPolicy,omitempty"`

	// activeDeadlineSeconds bounds all attempts and the waits between them,
	// counted from status.startTime without the time of suspension. A run that
	// goes beyond it fails with the reason DeadlineExceeded and keeps the text so
	// far where output.storage says. Unset, there is no limit. It may only be
	// raised or removed.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=31536000
	ActiveDeadlineSeconds *int64 `json:"activeDeadlineSeconds,omitempty"`

	// pendingDeadlineSeconds bounds the wait for the first attempt, counted from
	// the run's creation. A run that goes beyond it fails with the reason
	// PendingDeadlineExceeded. Unset, it may wait for ever.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=31536000
	PendingDeadlineSeconds *int64 `json:"pendingDeadlineSeconds,omitempty"`

	// streamIdleTimeoutSeconds is how long the provider may be silent within an
	// attempt, before the first part of its answer and between two; keep-alives
	// do not count. The attempt then fails with Timeout, and is retried. It does
	// not limit the whole answer. 0 turns it off. Default 600.
	// +optional
	// +default=600
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	StreamIdleTimeoutSeconds *int32 `json:"streamIdleTimeoutSeconds,omitempty"`

	// ttlSecondsAfterFinished is how long the object is kept after
	// status.completionTime before it is deleted, answer and all. Unset, it is
	// kept.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=31536000
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`

	// desiredState says what to do with the run. Running (the default) lets it
	// go on. Suspended drops the attempt under way and stops the clock of
	// activeDeadlineSeconds until it is Running again. Cancelled ends the run,
	// keeps the text so far where output.storage says, and is final: no other
	// value is accepted afterwards.
	// +optional
	// +default="Running"
	DesiredState DesiredState `json:"desiredState,omitempty"`

	// output says where the answer is kept. Immutable.
	// +optional
	// +default={}
	Output *OutputSpec `json:"output,omitempty"`

	// title says whether, and by which model, a title is written for the run. It
	// stands in the annotation chatrun.dev/title.
	// +optional
	// +default={}
	Title *Title `json:"title,omitempty"`
}

// ProviderReference names a ChatProvider in the same namespace.
type ProviderReference struct {
	// name is the ChatProvider's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="must be the name of a ChatProvider: lower case letters, digits, '-' and '.'"
	Name string `json:"name,omitempty"`
}

// OutputSpec says where an answer is kept.
// +kubebuilder:validation:MinProperties=0
type OutputSpec struct {
	// storage is ConfigMap (the default): the answer stands in status.output, and
	// one above 16 KiB whole in a ConfigMap that the run owns. Secret: it stands
	// in a Secret that the run owns, and nowhere else, for answers that not
	// everybody may read who may read runs; whoever may read the run's stream
	// gets it all the same, and so does the built-in role view by aggregation.
	// None: it is streamed, and not kept.
	// +optional
	// +default="ConfigMap"
	Storage OutputStorage `json:"storage,omitempty"`
}

// Parameters shape the answer.
// +kubebuilder:validation:MinProperties=1
type Parameters struct {
	// temperature is a decimal number from 0 to 2 as a string, for example "0.7".
	// A model that knows a smaller range, or none, refuses the request.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=8
	// +kubebuilder:validation:XValidation:rule="self.matches('^([01]([.][0-9]+)?|2([.]0+)?)$')",message="must be a decimal number from 0 to 2, such as \"0.7\""
	Temperature string `json:"temperature,omitempty"`

	// topP is a decimal number from 0 to 1 as a string, for example "0.95".
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=8
	// +kubebuilder:validation:XValidation:rule="self.matches('^(0([.][0-9]+)?|1([.]0+)?)$')",message="must be a decimal number from 0 to 1, such as \"0.95\""
	TopP string `json:"topP,omitempty"`

	// maxOutputTokens bounds the answer; one that reaches it ends with the
	// finishReason Length. Unset, the provider's own limit stands; a provider of
	// type Anthropic, whose API demands a limit, is sent 4096.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	MaxOutputTokens *int32 `json:"maxOutputTokens,omitempty"`

	// stop holds up to 4 texts at which the model ends its answer.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	Stop []string `json:"stop,omitempty"`
}

// RetryPolicy says how often and at what intervals a transient failure is tried
// again. The wait after the n-th failed attempt is initialDelayMs doubled n−1
// times, at most maxDelayMs, and never less than the provider asks for.
// +kubebuilder:validation:XValidation:rule="!has(self.initialDelayMs) || !has(self.maxDelayMs) || self.initialDelayMs <= self.maxDelayMs",message="must not be above maxDelayMs (the defaults are 1000 and 60000)",fieldPath=".initialDelayMs"
// +kubebuilder:validation:MinProperties=0
type RetryPolicy struct {
	// maxAttempts is how many calls are made at most, the first one counted:
	// 1 never retries, 0 has no limit. Default 25.
	// +optional
	// +default=25
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	MaxAttempts *int32 `json:"maxAttempts,omitempty"`

	// initialDelayMs is the wait after the first failed attempt, in milliseconds.
	// Default 1000.
	// +optional
	// +default=1000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600000
	InitialDelayMs *int64 `json:"initialDelayMs,omitempty"`

	// maxDelayMs is the longest wait that doubling reaches, in milliseconds. A
	// wait that the provider asks for may be longer. Default 60000.
	// +optional
	// +default=60000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600000
	MaxDelayMs *int64 `json:"maxDelayMs,omitempty"`
}

// Title says whether and by which model the run's title is written.
// +kubebuilder:validation:MinProperties=0
type Title struct {
	// policy is Generate (the default) or None. A title is generated only for a
	// run with one message of the user and none of the assistant, so for none
	// with continueFrom, and only if the annotation chatrun.dev/title is not set.
	// Whoever may read the run reads it. A title that cannot be had never touches
	// the run.
	// +optional
	// +default="Generate"
	Policy TitlePolicy `json:"policy,omitempty"`

	// model is the model that writes the title, of the same provider; a cheaper
	// one will do. Unset, it is the run's.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[!-~]+$')",message="must be printable ASCII without spaces"
	Model string `json:"model,omitempty"`
}

// ChatRun is one chat with a model: what is asked, and what became of it. The
// operator streams the answer from the ChatProvider that the run names,
// retries transient failures with a back-off that status shows, and keeps the
// answer where spec.output.storage says.
// Follow runs with `kubectl get chatruns -w`.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=chr,categories=chat
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.spec.providerRef.name`
// +kubebuilder:printcolumn:name="Model",type=string,JSONPath=`.status.model`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Attempt",type=integer,JSONPath=`.status.attempt`
// +kubebuilder:printcolumn:name="Retrying-At",type=string,JSONPath=`.status.retryingAt`,description="When the wait before the next attempt ends."
// +kubebuilder:printcolumn:name="Last-Error",type=string,JSONPath=`.status.lastErrorReason`,description="The class of the last failure; status.lastError says more."
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Succeeded")].reason`,priority=1,description="Why the run stands where it does; the condition's message says more."
// +kubebuilder:printcolumn:name="Delay-Ms",type=integer,JSONPath=`.status.delayMs`,priority=1
// +kubebuilder:printcolumn:name="Tokens",type=integer,JSONPath=`.status.usage.outputTokens`,priority=1
// +kubebuilder:printcolumn:name="Title",type=string,JSONPath=`.metadata.annotations.chatrun\.dev/title`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:selectablefield:JSONPath=`.spec.providerRef.name`
// +kubebuilder:selectablefield:JSONPath=`.status.phase`
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.status) || !has(oldSelf.status.attempt) || (has(self.status) && has(self.status.attempt) && self.status.attempt >= oldSelf.status.attempt)",message="status.attempt must not decrease or be removed"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.status) || !has(oldSelf.status.completionTime) || (has(self.status) && has(self.status.completionTime) && self.status.completionTime == oldSelf.status.completionTime)",message="status.completionTime must not change or be removed once it is set"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.continueFrom) || !has(self.metadata.name) || self.spec.continueFrom.name != self.metadata.name",message="a run cannot go on from itself",fieldPath=".spec.continueFrom.name"
type ChatRun struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec says what is asked, and what to do with the run. What is asked
	// (providerRef, model, system, prompt, messages, messagesFrom, continueFrom,
	// parameters) and output are immutable: for another question create another
	// run.
	// +required
	Spec ChatRunSpec `json:"spec,omitempty,omitzero"`

	// status says what became of the run. It is written by the operator alone.
	// +optional
	// +default={"phase": "Pending", "observedGeneration": 0}
	Status ChatRunStatus `json:"status,omitempty,omitzero"`
}

// ChatRunList is a list of ChatRuns.
// +kubebuilder:object:root=true
type ChatRunList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ChatRun `json:"items"`
}
