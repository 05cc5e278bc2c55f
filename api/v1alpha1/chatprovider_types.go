// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ProviderType is the protocol that a provider speaks.
// +kubebuilder:validation:Enum=OpenAI;Anthropic
type ProviderType string

// The protocols.
const (
	// ProviderOpenAI is OpenAI's chat completions, and everything that speaks
	// it: vLLM, Ollama, llama.cpp, LiteLLM, gateways.
	ProviderOpenAI ProviderType = "OpenAI"
	// ProviderAnthropic is Anthropic's messages.
	ProviderAnthropic ProviderType = "Anthropic"
)

// ConditionReady says whether runs may use a ChatProvider. It is never found
// out by a paid call: a key that the provider refuses shows on the run.
const ConditionReady = "Ready"

// Reasons of Ready.
const (
	// ReasonAccepted: True; the spec is whole and the key, if one is named, was read.
	ReasonAccepted = "Accepted"
	// ReasonSecretNotFound: False; the Secret that credentials name is not there
	// or may not be read. It is looked for again.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonKeyNotFound: False; the Secret is there and has no such key, or an
	// empty one. It is looked for again.
	ReasonKeyNotFound = "KeyNotFound"
	// ReasonInvalid: False; the spec passed the schema and cannot be used, say a
	// caBundle with no certificate in it. The message names the field.
	ReasonInvalid = "Invalid"
)

// ChatProviderSpec says who answers, and with which key. Rules about what may
// be a secret stand on the object around the field, here and in HTTPHeader: a
// refusal by the field itself would repeat its value.
// +kubebuilder:validation:XValidation:rule="!has(self.openAI) || self.type == 'OpenAI'",message="openAI may be set only if type is OpenAI",fieldPath=".openAI"
// +kubebuilder:validation:XValidation:rule="!has(self.baseURL) || !self.baseURL.matches('^[^/]*//[^/]*@')",message="must not hold a user name or password: put the key into a Secret and name it in credentials.secretKeyRef",fieldPath=".baseURL"
// +kubebuilder:validation:XValidation:rule="!has(self.caBundle) || !self.caBundle.contains('PRIVATE KEY')",message="must not hold a private key",fieldPath=".caBundle"
type ChatProviderSpec struct {
	// type is the protocol that the provider speaks: OpenAI (chat completions,
	// also spoken by vLLM, Ollama, llama.cpp, LiteLLM and most gateways) or
	// Anthropic (messages).
	// +required
	Type ProviderType `json:"type,omitempty"`

	// baseURL is where the provider is reached: an http or https URL with no
	// user name, query or fragment, for example
	// http://ollama.models.svc:11434/v1. Unset, it is the vendor's own,
	// https://api.openai.com/v1 or https://api.anthropic.com. Link-local
	// addresses are never called.
	// +optional
	// +kubebuilder:validation:MinLength=8
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && self.matches('^https?://([^/?#@[:space:]]*@)?([-._0-9A-Za-z]+|[[][0-9A-Fa-f:.]+[]])(:[0-9]*)?(/[^?#[:space:]]*)?$')",message="must be an absolute http or https URL with a host, and with no query, fragment or space"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[a-z]+://[^/]*:[0-9]*(/|$)') || self.matches('^[a-z]+://[^/]*:0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])(/|$)')",message="must name a port from 1 to 65535, or none"
	BaseURL string `json:"baseURL,omitempty"`

	// credentials name the key that authenticates the calls. Unset, no key is
	// sent; local servers need none.
	// +optional
	Credentials *Credentials `json:"credentials,omitempty"`

	// defaultModel is asked by runs that name no model.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[!-~]+$')",message="must be printable ASCII without spaces"
	DefaultModel string `json:"defaultModel,omitempty"`

	// headers are sent with every call, for gateways that route by them, at most
	// 16. No secret belongs here, as whoever may read this object can read them:
	// names and values that look like credentials are refused, and so are names
	// that the operator itself sets.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, b.name.lowerAscii() == a.name.lowerAscii()))",message="names must differ by more than case"
	Headers []HTTPHeader `json:"headers,omitempty"`

	// caBundle holds PEM certificates of private authorities, which are trusted
	// beside the system's for calls to this provider.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=131072
	// +kubebuilder:validation:XValidation:rule="self.contains('-----BEGIN CERTIFICATE-----') && self.contains('-----END CERTIFICATE-----')",message="must hold at least one PEM certificate"
	CABundle string `json:"caBundle,omitempty"`

	// openAI holds what concerns the type OpenAI alone.
	// +optional
	OpenAI *OpenAIOptions `json:"openAI,omitempty"`

	// limits bound what runs may ask of this provider at once.
	// +optional
	Limits *ProviderLimits `json:"limits,omitempty"`
}

// Credentials name the key that authenticates the calls.
type Credentials struct {
	// secretKeyRef names a Secret in the provider's namespace, and the key in it.
	// It is read at every attempt, so that a new key needs no restart.
	// +required
	SecretKeyRef SecretKeyReference `json:"secretKeyRef,omitempty,omitzero"`
}

// SecretKeyReference names one key of a Secret in the same namespace.
type SecretKeyReference struct {
	// name is the Secret's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="must be the name of a Secret: lower case letters, digits, '-' and '.'"
	Name string `json:"name,omitempty"`

	// key is the key within the Secret's data.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-._a-zA-Z0-9]+$')",message="must be a key of a Secret: letters, digits, '-', '_' and '.'"
	Key string `json:"key,omitempty"`
}

// HTTPHeader is one header field.
// +kubebuilder:validation:XValidation:rule="!self.value.lowerAscii().matches('^((bearer|basic|token|apikey) |sk-)')",message="looks like a credential: put the key into a Secret and name it in credentials.secretKeyRef",fieldPath=".value"
type HTTPHeader struct {
	// name is the header's name; case does not matter.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-!#$%&*+.^_|~0-9A-Za-z]+$')",message="must be a valid HTTP header name"
	// +kubebuilder:validation:XValidation:rule="!self.lowerAscii().matches('(^|[-_])(auth|key|jwt|bearer)($|[-_])|authorization|authentication|cookie|api[-_]?key|token|secret|password|credential')",message="looks like a header that carries a credential: put the key into a Secret and name it in credentials.secretKeyRef"
	// +kubebuilder:validation:XValidation:rule="!(self.lowerAscii() in ['accept', 'accept-encoding', 'anthropic-version', 'connection', 'content-encoding', 'content-length', 'content-type', 'expect', 'host', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade'])",message="is set by the operator or by HTTP itself"
	Name string `json:"name,omitempty"`

	// value is the header's value.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.matches('^[!-~]([ -~]*[!-~])?$')",message="must be printable ASCII with no space at its ends"
	Value string `json:"value,omitempty"`
}

// TokenLimitParameter is the name by which a server of type OpenAI knows the
// limit of output tokens.
// +kubebuilder:validation:Enum=Auto;MaxTokens;MaxCompletionTokens
type TokenLimitParameter string

// The names of the limit.
const (
	TokenLimitAuto                TokenLimitParameter = "Auto"
	TokenLimitMaxTokens           TokenLimitParameter = "MaxTokens"
	TokenLimitMaxCompletionTokens TokenLimitParameter = "MaxCompletionTokens"
)

// OpenAIOptions holds what concerns the type OpenAI alone.
// +kubebuilder:validation:MinProperties=1
type OpenAIOptions struct {
	// tokenLimitParameter is the name under which a run's maxOutputTokens is
	// sent: MaxTokens (max_tokens) or MaxCompletionTokens
	// (max_completion_tokens). OpenAI's newer models refuse the former, and most
	// other servers know only that. Auto (the default) sends MaxCompletionTokens
	// to OpenAI's and Azure's own hosts, and MaxTokens to every other.
	// +optional
	// +default="Auto"
	TokenLimitParameter TokenLimitParameter `json:"tokenLimitParameter,omitempty"`
}

// ProviderLimits bound what runs may ask of a provider at once.
// +kubebuilder:validation:MinProperties=1
type ProviderLimits struct {
	// maxConcurrentStreams is how many attempts may be under way at the same time.
	// Runs above it wait as Pending with the reason Queued, the oldest goes first.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	MaxConcurrentStreams *int32 `json:"maxConcurrentStreams,omitempty"`
}

// ChatProviderStatus says whether runs may use the provider.
// +kubebuilder:validation:MinProperties=1
type ChatProviderStatus struct {
	// observedGeneration is the generation of the spec that this status tells of.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ObservedGeneration *int64 `json:"observedGeneration,omitempty"`

	// conditions hold Ready, with the reason Accepted (True), or SecretNotFound,
	// KeyNotFound or Invalid (False). Runs of a provider that is not Ready wait,
	// and go on by themselves once it is.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=0
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ChatProvider says who answers: an OpenAI-compatible or an Anthropic
// endpoint, and the key for it. Runs in the same namespace name it. Whoever
// may create or change one can send a Secret of the namespace to a URL of
// their choosing, so that right is worth as much as reading the Secrets.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=chp,categories=chat
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Model",type=string,JSONPath=`.spec.defaultModel`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Base-URL",type=string,JSONPath=`.spec.baseURL`,priority=1
// +kubebuilder:printcolumn:name="Secret",type=string,JSONPath=`.spec.credentials.secretKeyRef.name`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ChatProvider struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec says who answers, and with which key.
	// +required
	Spec ChatProviderSpec `json:"spec,omitempty,omitzero"`

	// status says whether runs may use the provider.
	// +optional
	Status ChatProviderStatus `json:"status,omitempty,omitzero"`
}

// ChatProviderList is a list of ChatProviders.
// +kubebuilder:object:root=true
type ChatProviderList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ChatProvider `json:"items"`
}
